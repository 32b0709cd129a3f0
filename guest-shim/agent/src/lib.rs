//! The guest daemon that owns the vgpu device and serves it to programs.
//!
//! | module | what it is about |
//! |---|---|
//! | [`carrier`] | what brings the queues, as a trait; [`local`] and [`device`] are the two kinds |
//! | [`queue`], [`control`], [`events`] | the driver's side of a virtqueue, requests to the broker, its events |
//! | [`lanes`], [`client`] | what is lent to shims, and to whom |
//! | [`shares`] | files that programs export for others |
//! | [`install`], [`doctor`], [`system`] | what puts it into a guest, and what finds out why it does not work there |
//! | [`server`], [`service`] | the unix socket and what its sessions share |

pub mod carrier;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod device;
pub mod doctor;
pub mod error;
pub mod events;
pub mod extent;
pub mod install;
pub mod lanes;
pub mod local;
pub mod memory;
mod notify;
pub mod queue;
pub mod readings;
pub mod server;
pub mod service;
pub mod shares;
mod signals;
pub mod system;
#[cfg(test)]
mod testing;
pub mod wait;

use carrier::Carrier;
use config::Config;
use control::Control;
use error::Error;
use events::Events;
use lanes::Lanes;
use server::Server;
use service::{Service, Stop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use vgpu_spec::wire::control::HelloReply;
use vgpu_spec::wire::snapshot::Snapshot;

/// How long clients may take to be closed when the agent ends.
const CLOSING: Duration = Duration::from_secs(5);

/// Runs the agent until a signal (success) or the loss of the device (an error).
pub fn run(config: &Config) -> Result<(), Error> {
    let signals = signals::block();
    raise_descriptor_limit();
    let (sender, stop) = channel();
    let serving = Arc::new(AtomicBool::new(false));
    signals::watch(signals, serving.clone(), sender.clone()).map_err(Error::Thread)?;
    if config.backend.is_none() && !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    server::check_path(&config.socket)?;
    let carrier: Arc<dyn Carrier> = match &config.backend {
        Some(socket) => local::connect(socket, config.lanes, sender.clone())?,
        None => device::open(&config.device, config.method, config.lanes)?,
    };
    let result = serve(config, &carrier, &serving, sender, &stop);
    carrier.reset();
    result
}

fn serve(
    config: &Config,
    carrier: &Arc<dyn Carrier>,
    serving: &AtomicBool,
    sender: Sender<Stop>,
    stop: &Receiver<Stop>,
) -> Result<(), Error> {
    let control = Control::new(carrier.clone());
    let hello = control.hello()?;
    let snapshot = control.snapshot()?;
    let Some(decoded) = Snapshot::decode(&snapshot) else { return Err(Error::Snapshot(snapshot.len())) };
    let lanes = Arc::new(Lanes::new(carrier.clone(), hello.lanes));
    let ending = Arc::new(AtomicBool::new(false));
    start_events(carrier, &lanes, &ending, &sender)?;
    let service = Service::new(carrier.clone(), control, lanes.clone(), snapshot, hello.clients, sender);
    serving.store(true, Ordering::SeqCst);
    let server = Server::bind(&config.socket, config.socket_mode)?;
    server.start(Arc::new(service)).map_err(Error::Thread)?;
    log_ready(config, &**carrier, &lanes, &hello, &decoded);
    notify::ready();
    let why = stop.recv().unwrap_or_else(|_| Stop::Device("the agent's threads ended".into()));
    ending.store(true, Ordering::Relaxed);
    finish(&server, &lanes, why)
}

/// Each shim, lane and exported file takes descriptors.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn start_events(
    carrier: &Arc<dyn Carrier>,
    lanes: &Arc<Lanes>,
    ending: &Arc<AtomicBool>,
    sender: &Sender<Stop>,
) -> Result<(), Error> {
    let events = Events::new(carrier.clone(), lanes.clone(), ending.clone())?;
    let sender = sender.clone();
    let run = move || {
        let why = match events.run() {
            Ok(None) => return,
            Ok(Some(why)) => why,
            Err(error) => format!("taking events of the broker: {}", error::chain(&error)),
        };
        let _ = sender.send(Stop::Device(why));
    };
    std::thread::Builder::new().name("events".into()).spawn(run).map_err(Error::Thread)?;
    Ok(())
}

fn log_ready(config: &Config, carrier: &dyn Carrier, lanes: &Lanes, hello: &HelloReply, snapshot: &Snapshot) {
    let devices: Vec<String> = snapshot.devices.iter().map(vgpu_spec::wire::snapshot::Device::name).collect();
    tracing::info!(
        "ready: device by {}, {} lanes, at most {} clients, protocol {}, socket {}, GPU: {}",
        carrier.ownership(),
        lanes.count(),
        hello.clients,
        hello.version,
        config.socket.display(),
        if devices.is_empty() { "none".into() } else { devices.join(", ") },
    );
}

fn finish(server: &Server, lanes: &Lanes, why: Stop) -> Result<(), Error> {
    match why {
        Stop::Signal(signal) => {
            tracing::info!("ending after signal {signal}");
            let left = server.stop(CLOSING);
            if left > 0 {
                tracing::warn!("{left} clients were not closed within {} s", CLOSING.as_secs());
            }
            Ok(())
        }
        Stop::Device(why) => {
            let count = lanes.mark_all_lost();
            tracing::error!("the device is lost; {count} lanes with it");
            Err(Error::DeviceLost(why))
        }
    }
}
