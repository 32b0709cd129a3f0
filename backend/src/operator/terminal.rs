//! A terminal that shows one frame after another.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Alternate screen and no cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first line; the rest of a line and of the screen empty.
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";
/// What Ctrl-C and Ctrl-D send: they are keys here, so that the terminal is left as it was.
const CONTROL_C: u8 = 3;
const CONTROL_D: u8 = 4;

/// The terminal of stdin and stdout, set back at the end.
pub struct Terminal {
    before: Termios,
}

impl Terminal {
    /// `None` if there is none.
    pub fn open() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin())?;
        let mut keys = before.clone();
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        let terminal = Terminal { before };
        write(ENTER)?;
        Ok(Some(terminal))
    }

    /// Shows as much of the frame as fits.
    pub fn show(&self, frame: &str) -> io::Result<()> {
        let (rows, columns) = match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
            _ => (24, 80),
        };
        let mut text = HOME.to_owned();
        for (i, line) in frame.lines().take(usize::from(rows)).enumerate() {
            if i > 0 {
                text.push_str("\r\n");
            }
            text.extend(line.chars().take(usize::from(columns)));
            text.push_str(REST_OF_LINE);
        }
        text.push_str(REST_OF_SCREEN);
        write(&text)
    }

    /// Waits for a time; true if a key says that it is enough.
    pub fn is_left(&self, time: Duration) -> io::Result<bool> {
        let stdin = io::stdin();
        let time = Timespec::try_from(time).ok();
        let mut polled = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        match poll(&mut polled, time.as_ref()) {
            // A changed size interrupts it.
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut keys = [0; 16];
        let count = rustix::io::read(stdin.as_fd(), &mut keys)?;
        let leaves = |key: &u8| matches!(*key, b'q' | b'Q' | CONTROL_C | CONTROL_D);
        Ok(count == 0 || keys.iter().take(count).any(leaves))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
