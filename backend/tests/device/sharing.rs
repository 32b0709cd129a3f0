//! Shares: within a VM only, bounded, and gone when they must be.

use crate::broker::{Broker, eventually, kill};
use crate::guest::*;
use vgpu_spec::handle::{Kind, make};
use vgpu_spec::wire::control::{ShareDrop, ShareKeep, kind, status};
use vgpu_spec::wire::lane::function_id;
use vgpu_spec::wire::share::Token;
use zerocopy::{FromBytes, IntoBytes};

/// CUresults.
const INVALID_VALUE: u32 = 1;
const OPERATING_SYSTEM: u32 = 304;
const INVALID_HANDLE: u32 = 400;
const UNKNOWN: u32 = 999;

const ADDRESS: u64 = 0x7000_0000_0000;

fn slots(values: &[u64]) -> Vec<u8> {
    values.as_bytes().to_vec()
}

/// A guest with clients from 1 on, each with the lane after its number.
fn ready(socket: &std::path::Path, clients: u16) -> Guest {
    let mut guest = Guest::connect(socket);
    guest.hello();
    for client in 1..=clients {
        guest.open(u32::from(client));
        assert_eq!(guest.attach(u32::from(client), client + 1), status::OK);
    }
    guest
}

impl Guest {
    /// A call of a client: its status and the slots of its reply.
    fn client_call(&mut self, client: usize, name: &str, args: &[u8]) -> (u32, Vec<u64>) {
        let (reply, body) = self.queues[client + 1].call(&message(function_id(name), &[], args));
        let slots = body.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
        (reply.status, slots)
    }

    fn token(&mut self, client: usize, name: &str, args: &[u8]) -> Result<Token, u32> {
        match self.client_call(client, name, args) {
            (0, slots) => Ok(Token { low: slots[0], high: slots[1] }),
            (status, _) => Err(status),
        }
    }

    fn share_memory(&mut self, client: usize, address: u64) -> Result<Token, u32> {
        self.token(client, "vgpuShareMemory", &slots(&[address]))
    }

    fn open_memory(&mut self, client: usize, token: Token) -> Result<u64, u32> {
        match self.client_call(client, "vgpuOpenMemory", &slots(&[token.low, token.high, 1])) {
            (0, slots) => Ok(slots[0]),
            (status, _) => Err(status),
        }
    }

    /// Allocates as `number` and exports it.
    fn export(&mut self, client: usize, number: u64) -> Token {
        let mut properties = [0_u32; 8];
        (properties[0], properties[1], properties[2]) = (1, 1, 1);
        let args = [&slots(&[number, 2 << 20, 32])[..], properties.as_bytes(), &slots(&[0])].concat();
        assert_eq!(self.client_call(client, "cuMemCreate", &args).0, 0);
        self.token(client, "vgpuShareAllocation", &slots(&[number, 0, 1, 0])).unwrap()
    }

    fn import(&mut self, client: usize, number: u64, token: Token) -> u32 {
        self.client_call(client, "vgpuOpenAllocation", &slots(&[number, token.low, token.high])).0
    }

    fn keep(&mut self, client: u32, token: Token) -> u32 {
        self.request(kind::SHARE_KEEP, ShareKeep { client, reserved: 0, token }.as_bytes()).0
    }

    fn drop_kept(&mut self, token: Token) -> u32 {
        self.request(kind::SHARE_DROP, ShareDrop { token }.as_bytes()).0
    }
}

fn allocation(index: u32) -> u64 {
    make(Kind::Allocation, index, 0)
}

#[test]
fn memory_of_a_client_opens_in_its_vm_and_in_no_other() {
    let other = std::env::temp_dir().join(format!("vgpu-{}-other-vm.sock", std::process::id()));
    let broker = Broker::start("share-vms", &["--socket", other.to_str().unwrap()]);
    let mut one = ready(&broker.socket, 2);
    let mut two = ready(&other, 1);
    let token = one.share_memory(1, ADDRESS).unwrap();
    assert_eq!(one.share_memory(1, ADDRESS), Ok(token), "the same handle");
    assert_ne!(one.share_memory(2, ADDRESS), Ok(token), "another client's");
    assert_eq!(one.open_memory(2, token), Ok(ADDRESS));
    assert_eq!(two.open_memory(1, token), Err(INVALID_VALUE), "another VM");
    let file = one.export(1, allocation(1));
    assert_eq!(one.import(2, allocation(1), file), 0);
    assert_eq!(two.import(1, allocation(1), file), UNKNOWN, "another VM");
    assert_eq!(two.keep(1, file), status::INVALID, "another VM");
    // Another sort of share, a guess, and nothing at all.
    assert_eq!(one.open_memory(2, file), Err(INVALID_VALUE));
    assert_eq!(one.import(2, allocation(2), token), UNKNOWN);
    assert_eq!(one.open_memory(2, Token { low: token.low ^ 1, high: token.high }), Err(INVALID_VALUE));
    assert_eq!(one.open_memory(2, Token::default()), Err(INVALID_VALUE));
    let event = slots(&[make(Kind::Event, 1, 0), token.low, token.high]);
    // The null driver has no events: that is what it says to any token.
    assert_eq!(one.client_call(2, "vgpuOpenEvent", &event).0, NOT_SUPPORTED);
    // What was never allocated is not exported.
    let export = slots(&[allocation(9), 0, 1, 0]);
    assert_eq!(one.token(1, "vgpuShareAllocation", &export), Err(INVALID_HANDLE));
    let _ = std::fs::remove_file(&other);
}

#[test]
fn shares_end_with_their_client_unless_they_are_kept() {
    let broker = Broker::start("share-end", &[]);
    let mut guest = ready(&broker.socket, 2);
    let before = broker.descriptors_at_rest();
    let memory = guest.share_memory(1, ADDRESS).unwrap();
    let (kept, ends) = (guest.export(1, allocation(1)), guest.export(1, allocation(2)));
    assert_eq!(guest.keep(2, kept), status::INVALID, "another client's");
    assert_eq!(guest.keep(1, memory), status::INVALID, "no file");
    assert_eq!(guest.keep(7, kept), status::NO_CLIENT);
    assert_eq!(guest.drop_kept(kept), status::INVALID, "not kept yet");
    assert_eq!(guest.keep(1, kept), status::OK);
    assert_eq!(guest.keep(1, kept), status::INVALID, "kept already");
    kill(broker.client_worker(1), libc::SIGKILL);
    broker.wait_log("worker lost");
    assert_eq!(guest.open_memory(2, memory), Err(INVALID_HANDLE), "its process is gone");
    assert_eq!(guest.import(2, allocation(1), ends), UNKNOWN);
    assert_eq!(guest.keep(1, ends), status::NO_CLIENT);
    assert_eq!(guest.close(1), status::OK);
    assert_eq!(guest.import(2, allocation(2), kept), 0, "it is kept");
    assert_eq!(guest.drop_kept(kept), status::OK);
    assert_eq!(guest.drop_kept(kept), status::INVALID);
    assert_eq!(guest.import(2, allocation(3), kept), UNKNOWN);
    eventually("nothing is left open", || broker.descriptors() <= before, || broker.log());
}

#[test]
fn a_client_that_is_closed_or_replaced_leaves_no_share_and_no_descriptor() {
    let broker = Broker::start("share-leak", &[]);
    let mut guest = ready(&broker.socket, 2);
    let before = broker.descriptors_at_rest();
    let mut tokens = Vec::new();
    for i in 1..=20 {
        tokens.push(guest.export(1, allocation(i)));
    }
    assert_eq!(guest.keep(1, tokens[0]), status::OK);
    assert!(broker.descriptors() >= before + 20);
    assert_eq!(guest.close(1), status::OK);
    assert_eq!(guest.import(2, allocation(1), tokens[1]), UNKNOWN);
    assert_eq!(guest.import(2, allocation(1), tokens[0]), 0);
    eventually("only the kept one is left", || broker.descriptors() <= before + 1, || broker.log());
    // A new driver knows nothing of what is kept.
    guest.hello();
    assert_eq!(guest.drop_kept(tokens[0]), status::INVALID);
    guest.open(2);
    assert_eq!(guest.attach(2, 3), status::OK);
    assert_eq!(guest.import(2, allocation(1), tokens[0]), UNKNOWN);
    eventually("nothing is left open", || broker.descriptors() <= before, || broker.log());
}

#[test]
fn shares_of_a_vm_are_limited_and_can_be_taken_back() {
    let mut broker = Broker::start("share-limit", &[]);
    let mut guest = ready(&broker.socket, 2);
    let first = guest.share_memory(1, ADDRESS).unwrap();
    let mut made = 1_u64;
    let refused = loop {
        match guest.share_memory(1, ADDRESS + 4096 * made) {
            Ok(_) => made += 1,
            Err(status) => break status,
        }
        assert!(made <= 5000, "there is no limit");
    };
    assert_eq!((refused, made), (OPERATING_SYSTEM, 4096));
    broker.wait_log("the VM has 4096 shares");
    assert_eq!(guest.share_memory(2, ADDRESS), Err(OPERATING_SYSTEM), "it is the VM's limit");
    // Another client cannot take it back; its owner can.
    for (client, want) in [(2, Err(OPERATING_SYSTEM)), (1, Ok(()))] {
        let args = slots(&[first.low, first.high]);
        guest.queues[client + 1].post(5, &message(function_id("vgpuUnshare"), &[], &args));
        guest.queues[client + 1].finish();
        assert_eq!(guest.share_memory(client, ADDRESS + 1).map(drop), want);
    }
    assert!(broker.is_alive());
    let bytes = ShareDrop { token: first };
    assert_eq!(guest.request(kind::SHARE_DROP, &bytes.as_bytes()[1..]).0, status::INVALID);
    assert_eq!(Token::read_from_bytes(bytes.as_bytes()), Ok(first));
}
