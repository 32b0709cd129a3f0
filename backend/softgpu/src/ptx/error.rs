/// A PTX source that cannot be used, with the place that shows why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parsing PTX line {line} (`{text}`): {reason}")]
pub struct ParseError {
    /// Line in the source, from 1.
    pub line: usize,
    /// The text of that line, without leading and trailing space.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}
