//! `top`: what VMs and their clients do, second by second.

use std::time::Duration;

use super::commands::{Broker, CommandError, print};
use super::render;
use super::terminal::Terminal;

/// Between frames.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows frames until a key, a signal or the broker's end; one only if `once`.
pub fn run(mut broker: Broker, once: bool) -> Result<(), CommandError> {
    let mut before = broker.status()?;
    if once {
        std::thread::sleep(PERIOD);
        return print(&render::top(&before, &broker.status()?));
    }
    // Without a terminal, into a file for example: one frame after the other.
    let terminal = Terminal::open().map_err(CommandError::Terminal)?;
    let mut now = before.clone();
    loop {
        let frame = render::top(&before, &now);
        match &terminal {
            Some(terminal) => {
                terminal.show(&frame).map_err(CommandError::Terminal)?;
                if terminal.is_left(PERIOD).map_err(CommandError::Terminal)? {
                    return Ok(());
                }
            }
            None => {
                print(&(frame + "\n"))?;
                std::thread::sleep(PERIOD);
            }
        }
        let next = broker.status()?;
        // Another key than those that end it comes at once: rates need some time between two looks.
        if next.uptime_ms.saturating_sub(now.uptime_ms) >= 500 {
            before = std::mem::replace(&mut now, next);
        }
    }
}
