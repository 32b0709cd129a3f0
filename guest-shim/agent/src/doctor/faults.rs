//! The names of faults. Each is explained in docs/troubleshooting.md.

pub const ALL: &[&str] = &[
    "no-device",
    "several-devices",
    "device-other-driver",
    "device-taken",
    "locked-down",
    "iommu-off",
    "no-iommu",
    "not-vfio",
    "no-huge-pages",
    "huge-pages-short",
    "no-agent",
    "agent-dead",
    "agent-permission",
    "agent-version",
    "agent-broken",
    "no-gpu-on-host",
    "libcuda-missing",
    "libcuda-foreign",
    "libcuda-stub",
    "libcuda-release",
    "libcuda-soname",
    "libcuda-broken",
    "libcuda-needs",
    "libcuda-imports",
    "libcuda-load",
    "libcuda-name",
    "nvml-missing",
    "nvml-foreign",
    "nvml-broken",
    "nvml-soname",
    "cuda-init",
    "devices-hidden",
    "self-test",
    "wrong-result",
    "memory-zero",
    "memory-full",
    "pci",
    "cuda-crash",
    "cuda-hang",
    "probe",
    "nvml-load",
    "nvml-init",
    "nvml-uuid",
    "nvml-pci",
    "nvml-memory",
    "nvml-old",
    "nvml-crash",
    "nvml-hang",
    "cudart-load",
    "cudart-version",
    "cudart",
    "cudart-pci",
    "ollama-no-cuda",
    "ollama-foreign",
    "ollama-stale",
    "ollama-copy",
    "ollama-backend",
    "ollama-libcuda",
    "ollama-needs",
    "ollama-imports",
    "ollama-load",
    "ollama-runner",
    "ollama-llm-library",
    "ollama-wsl",
    "process-libcuda",
    "process-nvml",
    "process-backend",
    "process-init",
    "process-call",
    "process-crash",
    "command-no-cuda",
    "command",
    "not-followed",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_explained() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/troubleshooting.md");
        let document = std::fs::read_to_string(path).unwrap();
        for fault in ALL {
            assert!(
                document.contains(&format!("| `{fault}` |")),
                "{fault} is not in docs/troubleshooting.md"
            );
        }
    }
}
