//! Installing into folders that stand for systems.

use super::record::{PATH, Record};
use super::source::Source;
use super::*;
use crate::testing::tree::Tree;
use std::fs;

/// A system of Debian's kind, and a build to install from.
fn system() -> (Tree, Tree) {
    let (system, build) = (Tree::new(), Tree::new());
    system
        .folder("usr/lib/x86_64-linux-gnu")
        .folder("usr/lib/systemd/system")
        .folder("etc")
        .folder("var/lib");
    build
        .ours("lib/vgpu/libvgpu-cuda.so", "libcuda.so.1")
        .ours("lib/vgpu/libvgpu-nvml.so", "libnvidia-ml.so.1");
    build.file("bin/vgpu-agent", "the agent");
    (system, build)
}

fn options() -> InstallOptions {
    InstallOptions {
        root: "/".into(),
        from: None,
        prefix: None,
        huge_pages: 64,
        force: false,
        dry_run: false,
        no_start: false,
    }
}

fn install_with(system: &Tree, build: &Tree, options: &InstallOptions) -> Result<Vec<String>, InstallError> {
    let source = Source::find(options.from.as_deref(), build.path("bin/vgpu-agent"))?;
    let mut lines = Vec::new();
    apply::apply(&system.root(), &source, options, &mut |line| lines.push(line))?;
    Ok(lines)
}

fn uninstall_from(system: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    remove::remove(&system.root(), false, &mut |line| lines.push(line)).unwrap();
    lines
}

/// Every path of a tree, with links' targets and files' contents; without what ldconfig makes.
fn contents(tree: &Tree) -> Vec<String> {
    fn walk(folder: &std::path::Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.ends_with("etc/ld.so.cache") || path.ends_with("var/cache") {
                continue;
            }
            match fs::read_link(&path) {
                Ok(target) => into.push(format!("{} -> {}", path.display(), target.display())),
                Err(_) if path.is_dir() => {
                    into.push(path.display().to_string());
                    walk(&path, into);
                }
                Err(_) => {
                    into.push(format!("{} = {}", path.display(), record::digest(&fs::read(&path).unwrap())));
                }
            }
        }
    }
    let mut list = Vec::new();
    walk(tree.root().folder(), &mut list);
    list.sort();
    list
}

#[test]
fn names_lead_to_the_shims_and_everything_goes_again() {
    let (system, build) = system();
    let before = contents(&system);
    let lines = install_with(&system, &build, &options()).unwrap();
    assert!(lines.iter().any(|line| line == "created /usr/local/bin/vgpu-agent"), "{lines:?}");
    let root = system.root();
    for name in ["libcuda.so.1", "libcuda.so"] {
        let real = root.real(format!("/usr/lib/x86_64-linux-gnu/{name}"));
        assert_eq!(real.to_str(), Some("/usr/local/lib/vgpu/libvgpu-cuda.so"));
    }
    let real = root.real("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1");
    assert_eq!(real.to_str(), Some("/usr/local/lib/vgpu/libvgpu-nvml.so"));
    assert_eq!(root.text(plan::LOADER_CONFIG), "/usr/local/lib/vgpu\n");
    assert!(root.text(plan::UNIT).contains("ExecStart=/usr/local/bin/vgpu-agent serve\n"));
    assert!(root.has("/etc/systemd/system/multi-user.target.wants/vgpu-agent.service"));
    assert!(root.text(plan::SYSCTL).contains("vm.nr_hugepages = 64\n"));
    assert!(root.text(cdi::PATH).contains("/usr/local/lib/vgpu/libcuda.so.1"));
    let lines = uninstall_from(&system);
    assert_eq!(lines.last().unwrap(), "uninstalled");
    assert_eq!(contents(&system), before);
    assert!(uninstall_from(&system)[0].starts_with("nothing is installed"));
}

#[test]
fn installing_twice_changes_nothing() {
    let (system, build) = system();
    install_with(&system, &build, &options()).unwrap();
    let once = contents(&system);
    let lines = install_with(&system, &build, &options()).unwrap();
    assert!(
        !lines.iter().any(|line| line.starts_with("created") || line.starts_with("replaced")),
        "{lines:?}"
    );
    assert_eq!(contents(&system), once);
}

#[test]
fn a_new_release_replaces_the_old_and_uninstall_takes_that() {
    let (system, build) = system();
    let before = contents(&system);
    install_with(&system, &build, &options()).unwrap();
    build.file("bin/vgpu-agent", "a newer agent");
    let lines = install_with(&system, &build, &options()).unwrap();
    assert!(lines.contains(&"replaced /usr/local/bin/vgpu-agent".into()), "{lines:?}");
    uninstall_from(&system);
    assert_eq!(contents(&system), before);
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let (system, build) = system();
    let before = contents(&system);
    let dry = InstallOptions { dry_run: true, ..options() };
    let lines = install_with(&system, &build, &dry).unwrap();
    assert!(lines.contains(&"would have created /usr/local/bin/vgpu-agent".into()), "{lines:?}");
    assert_eq!(contents(&system), before);
    install_with(&system, &build, &options()).unwrap();
    let installed = contents(&system);
    let mut lines = Vec::new();
    remove::remove(&system.root(), true, &mut |line| lines.push(line)).unwrap();
    assert!(lines.contains(&"would have removed /usr/local/bin/vgpu-agent".into()), "{lines:?}");
    assert_eq!(contents(&system), installed);
}

/// NVIDIA's libraries as their package puts them.
fn real_driver(system: &Tree) {
    let folder = "usr/lib/x86_64-linux-gnu";
    system.foreign(&format!("{folder}/libcuda.so.580.159.04"), "libcuda.so.1");
    system.link(&format!("{folder}/libcuda.so.1"), "libcuda.so.580.159.04");
    system.link(&format!("{folder}/libcuda.so"), "libcuda.so.1");
}

#[test]
fn a_real_driver_is_not_overwritten() {
    let (system, build) = system();
    real_driver(&system);
    let before = contents(&system);
    let error = install_with(&system, &build, &options()).unwrap_err();
    assert!(
        matches!(&error, InstallError::RealDriver(signs) if signs.contains("libcuda.so.580.159.04")),
        "{error}"
    );
    assert_eq!(contents(&system), before);
    // Its kernel module alone is a driver too.
    let (system, build) = super::tests::system();
    system.file("proc/driver/nvidia/version", "NVRM version: 580.159.04");
    assert!(matches!(install_with(&system, &build, &options()), Err(InstallError::RealDriver(_))));
}

#[test]
fn with_force_the_driver_is_kept_and_comes_back() {
    let (system, build) = system();
    real_driver(&system);
    let before = contents(&system);
    let force = InstallOptions { force: true, ..options() };
    install_with(&system, &build, &force).unwrap();
    let root = system.root();
    assert!(root.real("/usr/lib/x86_64-linux-gnu/libcuda.so").ends_with("libvgpu-cuda.so"));
    assert!(
        !root.has("/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04"),
        "ldconfig would lead libcuda.so.1 to it"
    );
    // Once more, without force: nothing of the driver is in the way any more.
    install_with(&system, &build, &options()).unwrap();
    uninstall_from(&system);
    assert_eq!(contents(&system), before);
}

#[test]
fn a_file_in_the_way_needs_force_and_comes_back() {
    let (system, build) = system();
    system.file("etc/systemd/system/vgpu-agent.service", "mine");
    let error = install_with(&system, &build, &options()).unwrap_err();
    assert!(matches!(&error, InstallError::Occupied(paths) if paths == plan::UNIT), "{error}");
    install_with(&system, &build, &InstallOptions { force: true, ..options() }).unwrap();
    uninstall_from(&system);
    assert_eq!(system.root().text(plan::UNIT), "mine");
}

#[test]
fn what_was_changed_since_is_left() {
    let (system, build) = system();
    install_with(&system, &build, &options()).unwrap();
    system.file("etc/sysctl.d/60-vgpu.conf", "vm.nr_hugepages = 512\n");
    system.remove("usr/lib/x86_64-linux-gnu/libcuda.so.1");
    newer_driver(&system);
    let lines = uninstall_from(&system);
    assert!(lines.contains(&format!("left {}: it was changed since", plan::SYSCTL)), "{lines:?}");
    assert!(system.root().has(plan::SYSCTL));
    assert_eq!(
        fs::read_link(system.path("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap().to_str(),
        Some("libcuda.so.580.1")
    );
    assert!(!system.root().has(PATH));
}

fn newer_driver(system: &Tree) {
    system.foreign("usr/lib/x86_64-linux-gnu/libcuda.so.580.1", "libcuda.so.1");
    system.link("usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.580.1");
}

#[test]
fn files_of_a_package_stay_where_they_are() {
    let (system, _) = system();
    system
        .ours("usr/lib/vgpu/libvgpu-cuda.so", "libcuda.so.1")
        .ours("usr/lib/vgpu/libvgpu-nvml.so", "libnvidia-ml.so.1");
    system.file("usr/bin/vgpu-agent", "the agent");
    system.link("usr/lib/vgpu/libcuda.so.1", "libvgpu-cuda.so");
    let source = Source::find(None, system.path("usr/bin/vgpu-agent")).unwrap();
    apply::apply(&system.root(), &source, &options(), &mut |_| ()).unwrap();
    let root = system.root();
    assert_eq!(root.text(plan::LOADER_CONFIG), "/usr/lib/vgpu\n");
    assert!(root.text(plan::UNIT).contains("ExecStart=/usr/bin/vgpu-agent serve"));
    assert!(!Record::load(&root).unwrap().unwrap().has("/usr/bin/vgpu-agent".as_ref()));
    uninstall_from(&system);
    assert!(root.has("/usr/bin/vgpu-agent") && root.has("/usr/lib/vgpu/libvgpu-cuda.so"));
}

#[test]
fn settings_of_others_and_systems_without_systemd_are_respected() {
    let (system, build) = system();
    system.file("etc/sysctl.conf", "# mine\nvm.nr_hugepages=1024\n");
    fs::remove_dir_all(system.path("usr/lib/systemd")).unwrap();
    let lines = install_with(&system, &build, &options()).unwrap();
    let left: Vec<_> = lines.iter().filter(|line| line.starts_with("left out: ")).collect();
    assert!(left.iter().any(|line| line.contains("/etc/sysctl.conf")), "{lines:?}");
    assert!(left.iter().any(|line| line.contains("systemd")), "{lines:?}");
    assert!(!system.root().has(plan::SYSCTL) && !system.root().has(plan::UNIT));
}

#[test]
fn shims_that_are_missing_or_of_another_build_are_refused() {
    let (system, build) = system();
    build.foreign("lib/vgpu/libvgpu-nvml.so", "libnvidia-ml.so.1");
    assert!(matches!(install_with(&system, &build, &options()), Err(InstallError::OtherRelease { .. })));
    build.remove("lib/vgpu/libvgpu-cuda.so");
    assert!(matches!(install_with(&system, &build, &options()), Err(InstallError::NoShim { .. })));
    let nowhere = InstallOptions { root: "/nonexistent/root".into(), ..options() };
    assert!(matches!(install(&nowhere, &mut |_| ()), Err(InstallError::NoRoot(_))));
}
