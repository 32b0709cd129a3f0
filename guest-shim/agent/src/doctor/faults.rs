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

    /// All of doctor's source.
    fn source(folder: &std::path::Path) -> String {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let text = |path: std::path::PathBuf| match path.extension() {
            Some(end) if end == "rs" => std::fs::read_to_string(path).unwrap(),
            _ if path.is_dir() => source(&path),
            _ => String::new(),
        };
        entries.map(text).collect()
    }

    #[test]
    fn the_document_of_ollama_has_doctors_words() {
        let crate_folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let document = std::fs::read_to_string(crate_folder.join("../../docs/ollama.md")).unwrap();
        let source = source(&crate_folder.join("src/doctor"));
        let mut named = Vec::new();
        for row in document.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let fault = cells[1].trim_matches('`');
            assert!(ALL.contains(&fault), "{fault} is no fault");
            // Words in backquotes, with … for values.
            for words in cells[2].split('`').skip(1).step_by(2).flat_map(|words| words.split('…')) {
                assert!(source.contains(words), "{fault}: doctor does not say {words:?}");
            }
            named.push(fault);
        }
        let missing: Vec<_> = ALL.iter().filter(|f| f.starts_with("ollama-") && !named.contains(f)).collect();
        assert!(missing.is_empty(), "{missing:?} are not in docs/ollama.md");
    }
}
