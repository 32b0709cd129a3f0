//! CUDA_VISIBLE_DEVICES: which of the machine's devices a process has, and in which order.

use std::sync::Arc;

use vgpu_spec::wire::snapshot::uuid_text;

use super::device::Device;

/// The devices that the environment leaves, in its order.
pub fn devices() -> Vec<Arc<Device>> {
    let all = Device::all_from_environment();
    // What is not UTF-8 names nothing, but it is set.
    match std::env::var_os("CUDA_VISIBLE_DEVICES") {
        Some(wish) => select(&wish.to_string_lossy(), all),
        None => all.into_iter().map(Arc::new).collect(),
    }
}

/// What follows the first entry that names no device is ignored; a device that is named twice leaves none.
fn select(wish: &str, all: Vec<Device>) -> Vec<Arc<Device>> {
    let mut chosen = Vec::new();
    for entry in wish.split(',') {
        let Some(index) = find(entry.trim(), &all) else { break };
        if chosen.contains(&index) {
            return Vec::new();
        }
        chosen.push(index);
    }
    let device = |(ordinal, index): (u32, usize)| Some(Arc::new(all.get(index)?.numbered(ordinal)));
    (0..).zip(chosen).filter_map(device).collect()
}

/// A number, whatever follows it, or the beginning of one device's UUID alone.
fn find(entry: &str, all: &[Device]) -> Option<usize> {
    let uuid = entry.split_at_checked(4).filter(|(kind, _)| kind.eq_ignore_ascii_case("GPU-"));
    let Some((_, prefix)) = uuid else {
        let digits: String = entry.chars().take_while(char::is_ascii_digit).collect();
        return digits.parse().ok().filter(|&index| index < all.len());
    };
    let wanted = prefix.to_ascii_lowercase();
    let begins =
        |(index, device): (usize, &Device)| uuid_text(&device.uuid()).starts_with(&wanted).then_some(index);
    let mut matches = all.iter().enumerate().filter_map(begins);
    match (matches.next(), matches.next()) {
        (Some(index), None) if !wanted.is_empty() => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_those_that_are_named_up_to_the_first_that_is_not_there() {
        let uuid = |number: u32| format!("GPU-{}", uuid_text(&Device::new(number, 1, 0).uuid()));
        for (wish, wanted) in [
            ("", &[][..]),
            ("1", &[1]),
            ("2,0", &[2, 0]),
            ("1,7,0", &[1]),
            ("1,-1,0", &[1]),
            ("0,0", &[]),
            (&uuid(2), &[2]),
            (&format!("{}, {}", uuid(1), uuid(0)), &[1, 0]),
            (&format!("{},1", uuid(1)), &[]),
            (&uuid(3), &[]),
            ("GPU-7667", &[]),
            ("GPU-", &[]),
            ("none", &[]),
        ] {
            let chosen = select(wish, (0..3).map(|number| Device::new(number, 1, 0)).collect());
            let seen: Vec<_> = chosen.iter().map(|device| device.number()).collect();
            assert_eq!(seen, wanted, "{wish:?}");
            let ordinals: Vec<_> = chosen.iter().map(|device| device.ordinal()).collect();
            assert!(ordinals.iter().copied().eq(0..ordinals.len() as u32), "{wish:?}: {ordinals:?}");
        }
    }
}
