//! What was advised for the pages of an allocation.

/// A CUmemLocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub kind: u32,
    pub id: i32,
}

impl Place {
    /// CU_MEM_LOCATION_TYPE_DEVICE, _HOST, _HOST_NUMA and _HOST_NUMA_CURRENT.
    pub const DEVICE: u32 = 1;
    pub const ON_HOST: u32 = 2;
    pub const NUMA: u32 = 3;
    pub const NUMA_CURRENT: u32 = 4;
    pub const HOST: Place = Place { kind: Place::ON_HOST, id: -1 };

    pub fn device(ordinal: i32) -> Place {
        Place { kind: Place::DEVICE, id: ordinal }
    }

    pub fn is_node(self) -> bool {
        matches!(self.kind, Place::NUMA | Place::NUMA_CURRENT)
    }

    /// As the calls without locations tell it: a device's ordinal, or CU_DEVICE_CPU.
    pub fn ordinal(self) -> i32 {
        if self.kind == Place::DEVICE { self.id } else { -1 }
    }
}

/// What is known of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub read_mostly: bool,
    pub preferred: Option<Place>,
    pub prefetched: Option<Place>,
    /// Ordinals, rising, and CU_DEVICE_CPU behind them.
    accessed_by: Vec<i32>,
}

impl Page {
    /// Enters or takes out a device or the CPU.
    pub fn set_accessed_by(&mut self, ordinal: i32, on: bool) {
        self.accessed_by.retain(|&other| other != ordinal);
        if on {
            self.accessed_by.push(ordinal);
            // As unsigned numbers, so that the CPU comes last.
            self.accessed_by.sort_unstable_by_key(|o| o.cast_unsigned());
        }
    }
}

/// Runs of pages with the same advice: first page, one past the last. They are in order and do not overlap; what lies between them was
/// never advised.
#[derive(Debug, Default)]
pub struct Advice {
    runs: Vec<(u64, u64, Page)>,
}

impl Advice {
    /// Changes the pages `[first, end)`.
    pub fn change(&mut self, first: u64, end: u64, change: &dyn Fn(&mut Page)) {
        let mut runs: Vec<(u64, u64, Page)> = Vec::with_capacity(self.runs.len() + 2);
        for (from, to, page) in self.covering(first, end) {
            for (start, stop, changed) in [
                (from, first.min(to), false),
                (from.max(first), to.min(end), true),
                (from.max(end), to, false),
            ] {
                if start >= stop {
                    continue;
                }
                let mut page = page.clone();
                if changed {
                    change(&mut page);
                }
                match runs.last_mut() {
                    Some((_, last, same)) if *last == start && *same == page => *last = stop,
                    _ => runs.push((start, stop, page)),
                }
            }
        }
        self.runs = runs;
    }

    /// All runs, with the gaps in `[first, end)` filled.
    fn covering(&self, first: u64, end: u64) -> Vec<(u64, u64, Page)> {
        let (mut all, mut at) = (Vec::new(), first);
        for (from, to, page) in &self.runs {
            let gap = (*from).min(end);
            if at < gap && *from >= first {
                all.push((at, gap, Page::default()));
            }
            all.push((*from, *to, page.clone()));
            at = at.max(*to);
        }
        if at < end {
            all.push((at, end, Page::default()));
        }
        all
    }

    fn within(&self, first: u64, end: u64) -> impl Iterator<Item = Page> {
        let all = self.covering(first, end).into_iter();
        all.filter(move |(from, to, _)| *from < end && *to > first).map(|(_, _, page)| page)
    }

    /// What all pages of `[first, end)` have in common.
    pub fn common<T: PartialEq>(&self, first: u64, end: u64, of: impl Fn(&Page) -> T) -> Option<T> {
        let mut values = self.within(first, end).map(|page| of(&page));
        let value = values.next()?;
        values.all(|other| other == value).then_some(value)
    }

    /// Who was said to access all of the pages.
    pub fn accessed_by(&self, first: u64, end: u64) -> Vec<i32> {
        let mut pages = self.within(first, end);
        let mut list = pages.next().map_or_else(Vec::new, |page| page.accessed_by);
        pages.for_each(|page| list.retain(|ordinal| page.accessed_by.contains(ordinal)));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_for_a_part_leaves_the_rest_as_it_was() {
        let mut advice = Advice::default();
        let mostly = |a: &Advice, first, end| a.common(first, end, |page| page.read_mostly);
        assert_eq!(mostly(&advice, 0, 9), Some(false));
        advice.change(2, 8, &|page| page.read_mostly = true);
        advice.change(4, 5, &|page| page.read_mostly = false);
        advice.change(0, 20, &|page| page.preferred = Some(Place::device(1)));
        for (first, end, expected) in [
            (0, 2, Some(false)),
            (2, 4, Some(true)),
            (4, 5, Some(false)),
            (5, 8, Some(true)),
            (8, 99, Some(false)),
            (3, 5, None),
        ] {
            assert_eq!(mostly(&advice, first, end), expected, "{first} {end}");
        }
        assert_eq!(advice.common(0, 20, |page| page.preferred), Some(Some(Place::device(1))));
        assert_eq!(advice.common(19, 21, |page| page.preferred), None);
        advice.change(0, 30, &|page| *page = Page::default());
        assert_eq!(advice.runs, [(0, 30, Page::default())], "runs are joined again");
    }

    #[test]
    fn those_who_access_all_pages_are_listed_with_the_cpu_last() {
        let mut advice = Advice::default();
        for (end, ordinal) in [(8, -1), (8, 1), (4, 0)] {
            advice.change(0, end, &|page| page.set_accessed_by(ordinal, true));
        }
        assert_eq!(advice.accessed_by(0, 4), [0, 1, -1]);
        assert_eq!(advice.accessed_by(0, 8), [1, -1]);
        assert_eq!(advice.accessed_by(0, 9), []);
        advice.change(0, 8, &|page| page.set_accessed_by(1, false));
        assert_eq!(advice.accessed_by(0, 8), [-1]);
    }
}
