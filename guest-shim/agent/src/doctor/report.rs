//! Findings: what a check says.

use serde::Serialize;
use std::fmt::Write;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// Nothing wrong; worth knowing.
    Note,
    /// Works, but badly or not for everybody.
    Warning,
    /// Programs do not get the GPU.
    Error,
}

impl Severity {
    fn label(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
        }
    }
}

/// One thing that a check found.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// Names the fault, for programs and for the documents; none if nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<&'static str>,
    pub severity: Severity,
    pub text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Lines that the libraries logged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

/// All findings, in the order of the checks.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    #[serde(skip)]
    check: &'static str,
}

impl Report {
    /// What follows is of this check.
    pub fn begin(&mut self, check: &'static str) {
        self.check = check;
    }

    fn add(&mut self, severity: Severity, fault: Option<&'static str>, text: String, remedy: Option<String>) {
        debug_assert!(
            fault.is_none_or(|fault| super::faults::ALL.contains(&fault)),
            "{fault:?} is not explained"
        );
        self.findings.push(Finding { check: self.check, fault, severity, text, remedy, log: Vec::new() });
    }

    pub fn ok(&mut self, text: impl Into<String>) {
        self.add(Severity::Ok, None, text.into(), None);
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.add(Severity::Note, None, text.into(), None);
    }

    pub fn warning(&mut self, fault: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, Some(fault), text.into(), Some(remedy.into()));
    }

    pub fn error(&mut self, fault: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, Some(fault), text.into(), Some(remedy.into()));
    }

    /// Adds lines of the libraries' log to the last finding.
    pub fn log(&mut self, lines: &[String]) {
        if let Some(last) = self.findings.last_mut() {
            last.log.extend_from_slice(lines);
        }
    }

    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let Finding { check, severity, text: what, .. } = finding;
            let fault = finding.fault.map(|fault| format!(" [{fault}]")).unwrap_or_default();
            let _ = writeln!(text, "{:<8} {check:<10} {what}{fault}", severity.label());
            for line in &finding.log {
                let _ = writeln!(text, "{:20}log: {line}", "");
            }
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "{:20}→ {remedy}", "");
            }
        }
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        let _ = match (errors, warnings) {
            (0, 0) => writeln!(text, "nothing is wrong"),
            (0, _) => writeln!(text, "no errors, warnings: {warnings}"),
            _ => {
                let first = "the first error is the one to look at first";
                writeln!(text, "errors: {errors}, warnings: {warnings}; {first}")
            }
        };
        text
    }

    /// Faults that were found, for tests.
    #[cfg(test)]
    pub fn faults(&self) -> Vec<&'static str> {
        self.findings.iter().filter_map(|finding| finding.fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_fault_log_and_remedy() {
        let mut report = Report::default();
        report.begin("agent");
        report.ok("it answers");
        report.error("no-agent", "nothing serves it", "start vgpu-agent");
        report.log(&["a line".into()]);
        assert_eq!(report.worst(), Severity::Error);
        let text = report.text();
        for part in [
            "ok       agent      it answers\n",
            "[no-agent]",
            "log: a line",
            "→ start vgpu-agent",
            "errors: 1",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][1]["fault"], "no-agent");
        assert_eq!(json["findings"][0]["severity"], "ok");
    }
}
