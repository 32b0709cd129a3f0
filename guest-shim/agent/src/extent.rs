//! Runs of guest-physical memory.

use vgpu_spec::wire::Range;

/// The pages that start at `addresses`, each `page` bytes, in order, with neighbours joined into one range.
pub fn merge(addresses: impl IntoIterator<Item = u64>, page: u64) -> Vec<Range> {
    let mut extents: Vec<Range> = Vec::new();
    for base in addresses {
        match extents.last_mut() {
            Some(last) if last.end() == Some(base) => last.len += page,
            _ => extents.push(Range { base, len: page }),
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_only_in_rising_order() {
        let extents = merge([0x40, 0x60, 0x20, 0x40, 0xa0], 0x20);
        let expected = [(0x40, 0x40), (0x20, 0x40), (0xa0, 0x20)];
        assert_eq!(extents, expected.map(|(base, len)| Range { base, len }));
    }

    #[test]
    fn no_pages_give_no_extents() {
        assert!(merge([], 0x20).is_empty());
    }
}
