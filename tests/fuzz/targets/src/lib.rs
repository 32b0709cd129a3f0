//! Fuzz targets: plain functions of bytes, for cargo-fuzz and for the smoke run on stable Rust (`vgpu-fuzz`).
//!
//! | target | whose bytes | what decodes them |
//! |---|---|---|
//! | `control_queue` | agent | queue 0: virtqueue, chains, requests |
//! | `request` | agent | a request of queue 0, and what windows and lanes it names |
//! | `lane_ring` | guest process | a lane's ring in its page, and its messages |
//! | `lost_lane` | guest process | a ring whose worker is gone |
//! | `worker_packets` | worker | the link to the broker: packets, shares |
//! | `snapshot` | worker, monitor | what the host's devices are and do |
//! | `image` | guest process | module images before the driver gets them: fat binaries, ELF, PTX, linked ones |
//! | `ptx` | guest process | softgpu's images: fat binaries, compression, PTX |
//! | `calls` | guest process | arguments of every function, executed on softgpu |
//! | `graph_nodes` | guest process | the same, for graphs: node parameters |
//!
//! A target fails by a panic, a crash, or by not coming back.

mod calls;
mod control_queue;
mod image;
mod lane;
pub mod mutate;
mod packets;
mod request;
pub mod smoke;

/// One decoder, with what to begin with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs that real messages look like.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of an input at most.
    pub limit: usize,
}

pub const TARGETS: &[Target] = &[
    Target { name: "control_queue", run: control_queue::run, seeds: control_queue::seeds, limit: 4096 },
    Target { name: "request", run: request::run, seeds: request::seeds, limit: 40_000 },
    Target { name: "lane_ring", run: lane::run, seeds: lane::seeds, limit: 8192 },
    Target { name: "lost_lane", run: lane::run_lost, seeds: lane::seeds, limit: 8192 },
    Target { name: "worker_packets", run: packets::run, seeds: packets::seeds, limit: 4096 },
    Target { name: "snapshot", run: packets::run_snapshot, seeds: packets::seeds_snapshot, limit: 8192 },
    Target { name: "image", run: image::run, seeds: image::seeds, limit: 8192 },
    Target { name: "ptx", run: image::run_ptx, seeds: image::seeds, limit: 8192 },
    Target { name: "calls", run: calls::run, seeds: calls::seeds, limit: 4096 },
    Target { name: "graph_nodes", run: calls::run_graphs, seeds: calls::seeds_graphs, limit: 4096 },
];

/// Runs the target of that name; for cargo-fuzz, whose targets are of this list.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some(target) = TARGETS.iter().find(|target| target.name == name) {
        (target.run)(bytes);
    }
}
