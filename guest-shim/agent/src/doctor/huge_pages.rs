//! Memory for lanes and windows: huge pages of 2 MiB.

use super::report::Report;
use super::subject::{Facts, Subject};
use crate::config::DEFAULT_LANES_VM;
use crate::device::dma::{KEEP_FREE, POOL, parse_available};
use vgpu_spec::wire::HUGE_PAGE;

/// Pages that the agent takes at its start: one for each lane, one for control.
const AT_START: u64 = DEFAULT_LANES_VM as u64 + 1;
/// Pages that the windows of a small program take.
const FOR_A_PROGRAM: u64 = 16;

pub fn check(subject: &Subject, _: &mut Facts, report: &mut Report) {
    if subject.is_local_mode() {
        return report.ok("local mode: none are needed");
    }
    if !subject.root.has("/sys/kernel/mm") && !subject.root.is_live() {
        return report.note("not looked at: the system does not run");
    }
    let number = |name: &str| subject.root.text(format!("{POOL}/{name}")).trim().parse::<u64>().ok();
    let (Some(total), Some(free)) = (number("nr_hugepages"), number("free_hugepages")) else {
        return report.error(
            "no-huge-pages",
            "this kernel has no huge pages of 2 MiB: the agent cannot start",
            "use a kernel with CONFIG_HUGETLBFS (all of Debian's have it)",
        );
    };
    let available = parse_available(&subject.root.text("/proc/meminfo"));
    let growable = available.saturating_sub(KEEP_FREE) / HUGE_PAGE;
    let wanted = FOR_A_PROGRAM + if subject.agent.is_ok() { 0 } else { AT_START };
    if free + growable < wanted {
        return report.error(
            "huge-pages-short",
            format!("{free} of {total} huge pages are free and memory has room for {growable} more; {wanted} are needed"),
            "give the VM more memory, or set aside pages at boot: vgpu-agent install --huge-pages N, or hugepages=N on the \
             kernel's command line",
        );
    }
    if free < wanted {
        return report.note(format!(
            "{free} of {total} huge pages are free; the agent takes more from memory, which works while that is in one piece"
        ));
    }
    report.ok(format!("{free} of {total} huge pages are free"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Severity;
    use crate::testing::tree::Tree;

    fn found(tree: &Tree) -> Report {
        let mut report = Report::default();
        check(&Subject::files(tree.root()), &mut Facts::default(), &mut report);
        report
    }

    #[test]
    fn pages_that_are_short_or_unknown_are_named() {
        let tree = Tree::new();
        assert_eq!(found(&tree).worst(), Severity::Note, "an image has none");
        tree.folder("sys/kernel/mm");
        assert_eq!(found(&tree).faults(), ["no-huge-pages"]);
        tree.file(&format!("{POOL}/nr_hugepages"), "64\n").file(&format!("{POOL}/free_hugepages"), "3\n");
        tree.file("proc/meminfo", "MemTotal: 500000 kB\nMemAvailable:      90000 kB\n");
        assert_eq!(found(&tree).faults(), ["huge-pages-short"]);
        tree.file("proc/meminfo", "MemAvailable:     900000 kB\n");
        assert_eq!(found(&tree).worst(), Severity::Note);
        tree.file(&format!("{POOL}/free_hugepages"), "64\n");
        assert_eq!(found(&tree).worst(), Severity::Ok);
    }
}
