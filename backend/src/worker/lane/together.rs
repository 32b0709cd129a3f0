//! Messages that are issued together: launches that wait in the ring one behind another.
//!
//! None of them counts as issued, and no chain is given back, before all are.

use super::{Answer, Server};
use crate::worker::{
    deps::Waited,
    message,
    ring::{Chain, LaneRing, Popped},
};

impl Server {
    /// Issues the message that was taken last together with those behind it, if it is one of several such. Answers what it took: the chain,
    /// unless it is to be answered by itself, or one that it took too many.
    pub(super) fn answer_together(&mut self, ring: &mut LaneRing, first: Chain) -> Option<Chain> {
        if ring.behind() == 0 || !self.hold(&first) {
            return Some(first);
        }
        self.held.push(first);
        let mut other = None;
        while let Popped::Chain(chain) = ring.pop(&mut self.message) {
            if !self.hold(&chain) {
                other = Some(chain);
                break;
            }
            self.held.push(chain);
        }
        self.issue(ring);
        other
    }

    /// Whether the executor takes the message that was taken last.
    fn hold(&mut self, chain: &Chain) -> bool {
        if chain.reply.is_some() || chain.error.is_some() || self.client.account.is_away() {
            return false;
        }
        // What is wrong with a message is said where it is answered by itself.
        let Ok((message, dependencies)) = message::parse(&self.message) else { return false };
        dependencies
            .iter()
            .all(|dependency| self.client.lanes.look(self.queue, dependency) == Some(Waited::Done))
            && self.executor.hold(&message)
    }

    fn issue(&mut self, ring: &mut LaneRing) {
        let mut failed = std::mem::take(&mut self.failed);
        self.executor.issue(&mut failed);
        for (function, status) in failed.drain(..) {
            self.tally.result(status);
            self.report(ring, status, function);
        }
        self.failed = failed;
        let mut held = std::mem::take(&mut self.held);
        for chain in held.drain(..) {
            self.complete(ring, &chain, Answer::None);
        }
        self.held = held;
    }
}
