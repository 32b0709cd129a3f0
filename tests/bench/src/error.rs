//! What can go wrong in a measurement.

use cudarc::driver::DriverError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call of the driver failed.
    #[error("{call}: {source}")]
    Driver { call: &'static str, source: DriverError },
    /// The operation took place, but what it did is wrong.
    #[error("the result is wrong: {0}")]
    Wrong(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// A measuring process did not deliver.
    #[error("{0}")]
    Child(String),
    #[error("no operation has such a name: vgpu-bench list prints them")]
    Nothing,
    #[error("the plot: {0}")]
    Plot(String),
}

/// Names the call that failed.
pub trait Fail<T> {
    /// # Errors
    /// The driver's error with the call's name.
    fn fail(self, call: &'static str) -> Result<T, Error>;
}

impl<T> Fail<T> for Result<T, DriverError> {
    #[inline]
    fn fail(self, call: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Driver { call, source })
    }
}

/// Names what was done with a file or a process.
pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}
