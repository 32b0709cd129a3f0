//! The virtio device: there, and in the agent's hands.

use super::report::Report;
use super::subject::{Facts, Subject};
use crate::config::Selector;
use crate::device::pci::{PciDevice, PciError};

const QEMU: &str =
    "start QEMU with -chardev socket,id=vgpu,path=SOCKET -device vhost-user-fs-pci,chardev=vgpu,tag=vgpu,…";
const IOMMU: &str = "start QEMU with -device intel-iommu,intremap=on and boot the guest with intel_iommu=on";

pub fn check(subject: &Subject, _: &mut Facts, report: &mut Report) {
    if subject.is_local_mode() {
        return report.ok("local mode: no device of a VM is needed");
    }
    if !subject.root.has("/sys/bus/pci") && !subject.root.is_live() {
        return report.note("not looked at: the system does not run");
    }
    let found = PciDevice::find_in(&subject.root.at("/sys/bus/pci"), &Selector::Auto);
    match found {
        Ok(device) => owned(subject, &device, report),
        Err(PciError::Several(names)) if subject.agent.is_ok() => {
            report.ok(format!("several may be it ({names}); the agent has one"));
        }
        Err(PciError::Several(names)) => report.error(
            "several-devices",
            format!("several devices may be the GPU: {names}"),
            "name it in the unit: systemctl edit vgpu-agent, ExecStart=… --device BDF",
        ),
        Err(_) => report.error(
            "no-device",
            "this machine has no vgpu device (PCI 1af4:105a or 1af4:1066)",
            format!("in a VM: {QEMU}; for local mode start vgpu-agent with --backend"),
        ),
    }
}

fn owned(subject: &Subject, device: &PciDevice, report: &mut Report) {
    let bdf = device.bdf;
    let driver = device.driver();
    match (&subject.agent, driver.as_deref()) {
        (Ok(_), Some(driver @ ("vfio-pci" | "uio_pci_generic"))) => {
            report.ok(format!("{bdf} is the agent's, by {driver}"));
        }
        (Ok(_), Some(driver)) => report.error(
            "device-taken",
            format!("{bdf} has the kernel's driver {driver}, although the agent serves: somebody took the device from it"),
            "restart vgpu-agent; do not bind drivers to that device",
        ),
        (Ok(_), None) => report.ok(format!("{bdf} is the agent's, by sysfs")),
        (Err(_), Some("vfio-pci" | "uio_pci_generic") | None) => {
            report.ok(format!("{bdf} is there and waits for the agent"));
        }
        (Err(_), Some(driver)) => report.warning(
            "device-other-driver",
            format!("{bdf} has the kernel's driver {driver}; the agent takes it from there when it starts"),
            "if this is a share of virtiofs and not the GPU, give the VM a vgpu device",
        ),
    }
    protected(subject, device, report);
}

/// Whether an IOMMU protects the guest, and the device can interrupt.
fn protected(subject: &Subject, device: &PciDevice, report: &mut Report) {
    let lockdown = subject.root.text("/sys/kernel/security/lockdown");
    let locked = !lockdown.is_empty() && !lockdown.contains("[none]");
    let root = &subject.root;
    match device.iommu_group() {
        None if locked => report.error(
            "locked-down",
            "the kernel is locked down (secure boot) and the VM has no IOMMU: the agent cannot take the device",
            IOMMU,
        ),
        None if root.has("/sys/firmware/acpi/tables/DMAR") && !root.text("/proc/cmdline").contains("intel_iommu=on") => {
            report.warning(
                "iommu-off",
                "the VM has an IOMMU and the kernel does not use it: the agent polls, and its memory is not pinned",
                "add intel_iommu=on to the kernel's command line (Debian: GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub)",
            );
        }
        None => report.warning(
            "no-iommu",
            "the VM has no IOMMU: the agent polls, which costs a processor's time, and its memory is not pinned",
            IOMMU,
        ),
        Some(_) if subject.agent.is_ok() && device.driver().as_deref() != Some("vfio-pci") => report.warning(
            "not-vfio",
            "the VM has an IOMMU, and the agent took the device without it",
            "modprobe vfio-pci (Debian's cloud kernel has it), then restart vgpu-agent; its log says why vfio did not work",
        ),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree::Tree;

    fn found(tree: &Tree) -> Vec<&'static str> {
        let mut report = Report::default();
        check(&Subject::files(tree.root()), &mut Facts::default(), &mut report);
        report.faults()
    }

    /// A tree with carriers at these addresses.
    fn with_devices(addresses: &[&str]) -> Tree {
        let tree = Tree::new();
        tree.folder("sys/bus/pci/devices");
        for bdf in addresses {
            let folder = format!("sys/bus/pci/devices/{bdf}");
            tree.file(&format!("{folder}/vendor"), "0x1af4\n").file(&format!("{folder}/device"), "0x105a\n");
        }
        tree
    }

    #[test]
    fn a_missing_device_is_named() {
        assert_eq!(found(&with_devices(&[])), ["no-device"]);
        assert!(found(&Tree::new()).is_empty(), "an image has no devices");
        assert_eq!(found(&with_devices(&["0000:00:04.0", "0000:00:05.0"])), ["several-devices"]);
    }

    #[test]
    fn an_iommu_that_is_missing_or_off_is_named() {
        let tree = with_devices(&["0000:00:04.0"]);
        assert_eq!(found(&tree), ["no-iommu"]);
        tree.file("sys/firmware/acpi/tables/DMAR", "");
        assert_eq!(found(&tree), ["iommu-off"]);
        tree.file("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        assert_eq!(found(&tree), ["locked-down"]);
        tree.link("sys/bus/pci/devices/0000:00:04.0/iommu_group", "../../../../kernel/iommu_groups/3");
        assert!(found(&tree).is_empty());
    }

    #[test]
    fn a_driver_that_has_the_device_is_named() {
        let tree = with_devices(&["0000:00:04.0"]);
        tree.link("sys/bus/pci/devices/0000:00:04.0/iommu_group", "../../g/3");
        tree.link("sys/bus/pci/devices/0000:00:04.0/driver", "../../drivers/virtio-pci");
        assert_eq!(found(&tree), ["device-other-driver"]);
        let mut subject = Subject::files(tree.root());
        subject.agent = Ok(crate::doctor::agent::tests::agent(1));
        let mut report = Report::default();
        check(&subject, &mut Facts::default(), &mut report);
        assert_eq!(report.faults(), ["device-taken", "not-vfio"]);
    }
}
