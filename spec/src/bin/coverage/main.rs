//! Says which functions of the APIs are supported and tested, and keeps `docs/coverage.md` and the block in the README true.
//!
//! `./scripts/coverage` runs this. Everything printed derives from the description in `spec/api` and the tables in `spec/data`.

mod count;
mod page;

use std::io::Write;
use std::process::ExitCode;

const USAGE: &str = "\
usage: coverage [--totals | --markdown | --readme | --check]
  (none)      a line per function: name, class or \"unsupported\", tested or not, why not; last the totals
  --totals    the totals only
  --markdown  rewrites docs/coverage.md
  --readme    rewrites the block in README.md
  --check     fails if docs/coverage.md or the block in README.md is out of date";

/// Why nothing could be said, or what is out of date.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Count(#[from] count::CountError),
    #[error(transparent)]
    Page(#[from] page::PageError),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match command[..] {
        [] => lines(),
        ["--totals"] => totals(),
        ["--markdown"] => write_coverage(),
        ["--readme"] => write_readme(),
        ["--check"] => check(),
        ["-h" | "--help"] => Ok(format!("{USAGE}\n")),
        _ => {
            eprintln!("coverage: {command:?} is no command line of this program\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(text) => {
            // A reader that has seen enough (head) is no error.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("coverage: {error}{}", page::causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn lines() -> Result<String, Error> {
    let apis = count::apis()?;
    let mut text = String::new();
    for line in apis.iter().flat_map(|api| &api.functions) {
        let tested = if line.tested { "tested" } else { "untested" };
        let whole = format!("{:<45} {:<11} {tested:<8}  {}", line.name, line.class, line.reason);
        text.push_str(whole.trim_end());
        text.push('\n');
    }
    text.push_str(&count::totals(&apis));
    Ok(text)
}

fn totals() -> Result<String, Error> {
    Ok(count::totals(&count::apis()?))
}

fn write_coverage() -> Result<String, Error> {
    page::COVERAGE.write(&page::coverage(&count::apis()?))?;
    Ok(String::new())
}

fn write_readme() -> Result<String, Error> {
    let text = page::with_block(&page::README.read()?, &count::apis()?)?;
    page::README.write(&text)?;
    Ok(String::new())
}

fn check() -> Result<String, Error> {
    let apis = count::apis()?;
    page::COVERAGE.check(&page::coverage(&apis))?;
    page::README.check(&page::with_block(&page::README.read()?, &apis)?)?;
    Ok("docs/coverage.md and README.md are up to date\n".into())
}
