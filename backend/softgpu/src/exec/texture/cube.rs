//! Cube maps: directions and faces (CUDA programming guide, "Cubemap Textures").

/// A direction's face, and the coordinates on it from 0 to 1.
pub(super) fn face(direction: [f32; 3]) -> (u32, [f32; 2]) {
    let [x, y, z] = direction;
    let [ax, ay, az] = direction.map(f32::abs);
    // Where two are equal, z is preferred to y and y to x, as an H100 was seen to do.
    let (face, m, s, t) = if az >= ay && az >= ax {
        if z >= 0.0 { (4, az, x, -y) } else { (5, az, -x, -y) }
    } else if ay >= ax {
        if y >= 0.0 { (2, ay, x, z) } else { (3, ay, x, -z) }
    } else if x >= 0.0 {
        (0, ax, -z, -y)
    } else {
        (1, ax, z, -y)
    };
    if m == 0.0 {
        return (face, [0.5, 0.5]);
    }
    (face, [(s / m + 1.0) / 2.0, (t / m + 1.0) / 2.0])
}

/// The direction of a point on a face, which may lie beyond the face's edges.
pub(super) fn direction(face: u32, [s, t]: [f32; 2]) -> [f32; 3] {
    let (s, t) = (2.0 * s - 1.0, 2.0 * t - 1.0);
    match face {
        0 => [1.0, -t, -s],
        1 => [-1.0, -t, s],
        2 => [s, 1.0, t],
        3 => [s, -1.0, -t],
        4 => [s, -t, 1.0],
        _ => [-s, -t, -1.0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faces_are_numbered_by_axis_and_sign() {
        let axes = [[1., 0., 0.], [-1., 0., 0.], [0., 1., 0.], [0., -1., 0.], [0., 0., 1.], [0., 0., -1.]];
        for (number, axis) in (0..).zip(axes) {
            assert_eq!(face(axis), (number, [0.5, 0.5]));
        }
    }

    #[test]
    fn a_direction_leads_back_to_its_point() {
        for number in 0..6 {
            let (found, [s, t]) = face(direction(number, [0.25, 0.875]));
            assert_eq!((found, s, t), (number, 0.25, 0.875));
        }
    }
}
