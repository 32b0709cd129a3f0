//! What is to be where.

use super::cdi;
use super::source::{SHIMS, Source};
use crate::system::root::Root;
use crate::system::{CUDA, NVML};
use std::path::{Path, PathBuf};

/// What a path is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A copy of a file of this process's system.
    Copy {
        from: PathBuf,
        mode: u32,
    },
    Text(String),
    Link(PathBuf),
}

/// A path of the system and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub path: PathBuf,
    pub content: Content,
}

/// The items, and what was left out with its reason.
#[derive(Debug, Default)]
pub struct Plan {
    pub items: Vec<Item>,
    pub left_out: Vec<String>,
    /// The folder of the system's libraries.
    pub libraries: PathBuf,
    /// Whether the huge pages are ours to set.
    pub huge_pages: bool,
    /// Whether there is a unit to start.
    pub unit: bool,
}

/// Names of the links and what they lead to.
const LINKS: [(&str, &str); 4] =
    [(CUDA, SHIMS[0]), ("libcuda.so", CUDA), (NVML, SHIMS[1]), ("libnvidia-ml.so", NVML)];
/// First of all, so that it comes before what the CUDA toolkit puts there.
pub const LOADER_CONFIG: &str = "/etc/ld.so.conf.d/00-vgpu.conf";
pub const SYSCTL: &str = "/etc/sysctl.d/60-vgpu.conf";
pub const UNIT: &str = "/etc/systemd/system/vgpu-agent.service";
const WANTED: &str = "/etc/systemd/system/multi-user.target.wants/vgpu-agent.service";

impl Plan {
    /// For a system below `root`, with the files below `prefix`.
    pub fn new(root: &Root, source: &Source, prefix: &str, huge_pages: u64) -> Self {
        let folder = PathBuf::from(format!("{prefix}/lib/vgpu"));
        let mut plan = Plan { libraries: library_folder(root), ..Plan::default() };
        if source.in_place(root) != Some(prefix) {
            plan.program(source, prefix, &folder);
        }
        // Programs that know only the system's own folder (or link against -lcuda) find these.
        for (name, _) in LINKS {
            plan.link(plan.libraries.join(name), folder.join(name));
        }
        plan.text(LOADER_CONFIG, format!("{}\n", folder.display()));
        plan.text(cdi::PATH, cdi::text(prefix));
        plan.unit(root, prefix);
        plan.sysctl(root, huge_pages);
        plan
    }

    fn program(&mut self, source: &Source, prefix: &str, folder: &Path) {
        let copy = |from: PathBuf, mode| Content::Copy { from, mode };
        let agent = copy(source.agent.clone(), 0o755);
        self.items.push(Item { path: format!("{prefix}/bin/vgpu-agent").into(), content: agent });
        for name in SHIMS {
            let content = copy(source.shims.join(name), 0o644);
            self.items.push(Item { path: folder.join(name), content });
        }
        for (name, target) in LINKS {
            self.link(folder.join(name), target.into());
        }
    }

    fn unit(&mut self, root: &Root, prefix: &str) {
        let systemd = ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"];
        if !systemd.iter().any(|folder| root.has(folder)) {
            self.left_out.push("no systemd here: have vgpu-agent started as root at boot".into());
            return;
        }
        self.text(UNIT, include_str!("vgpu-agent.service").replace("{PREFIX}", prefix));
        self.link(WANTED.into(), UNIT.into());
        self.unit = true;
    }

    fn sysctl(&mut self, root: &Root, huge_pages: u64) {
        if huge_pages == 0 {
            return;
        }
        if let Some(file) = setter(root) {
            self.left_out.push(format!("vm.nr_hugepages is set in {}: left as it is", file.display()));
            return;
        }
        self.text(
            SYSCTL,
            format!("# Memory for vgpu-agent: pages of 2 MiB.\nvm.nr_hugepages = {huge_pages}\n"),
        );
        self.huge_pages = true;
    }

    fn text(&mut self, path: &str, text: String) {
        self.items.push(Item { path: path.into(), content: Content::Text(text) });
    }

    fn link(&mut self, path: PathBuf, target: PathBuf) {
        self.items.push(Item { path, content: Content::Link(target) });
    }
}

/// The folder that the distribution has for 64-bit libraries.
fn library_folder(root: &Root) -> PathBuf {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let real = folders.iter().find(|folder| root.has(folder));
    real.map_or_else(|| folders[0].into(), |folder| root.real(folder))
}

/// Another file that says how many huge pages there are.
fn setter(root: &Root) -> Option<PathBuf> {
    let folders = ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"];
    let files = folders
        .iter()
        .flat_map(|folder| root.names(folder).into_iter().map(move |name| Path::new(folder).join(name)));
    let mut files = files.chain([PathBuf::from("/etc/sysctl.conf")]).filter(|path| path != Path::new(SYSCTL));
    files.find(|path| {
        let text = root.text(path);
        text.lines().any(|line| line.trim_start().trim_start_matches('-').starts_with("vm.nr_hugepages"))
    })
}
