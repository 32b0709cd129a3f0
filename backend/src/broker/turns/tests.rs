//! Turns in simulated time.

use super::*;

/// How a simulated VM works.
#[derive(Clone, Copy)]
struct Load {
    weight: u32,
    cap: u32,
    /// Nanoseconds of work, then nanoseconds of rest, and so on; no rest: it always has work.
    work: u64,
    rest: u64,
    /// How long work goes on after the gate has closed.
    drain: u64,
    /// How long before the end it says that this is near.
    near: u64,
    /// How long it takes from its turn's beginning to its first work.
    start: u64,
    /// What goes on at the end is a call that issues work.
    calls: bool,
}

const BUSY: Load = Load {
    weight: 100,
    cap: 100,
    work: u64::MAX,
    rest: 0,
    drain: 500 * MICROSECOND,
    near: 0,
    start: 0,
    calls: false,
};

#[derive(Clone)]
struct Simulated {
    load: Load,
    word: u32,
    worked: u32,
    /// Of its current piece of work.
    left: u64,
    rests_until: u64,
    drains_until: u64,
    begins: u64,
    had: u64,
    /// How long it was at work beside others' turns.
    beside: u64,
    /// From when on the current piece of work waited, and the longest such time.
    asked: Option<u64>,
    longest: u64,
}

struct Simulation {
    turns: Turns,
    vms: Vec<Simulated>,
    now: u64,
    told: u64,
}

const TICK: u64 = 20 * MICROSECOND;

impl Simulation {
    fn new(loads: &[Load]) -> Self {
        let vm = |&load: &Load| Simulated {
            load,
            word: gate::CLOSED,
            worked: 0,
            left: load.work,
            rests_until: 0,
            drains_until: 0,
            begins: 0,
            had: 0,
            beside: 0,
            asked: None,
            longest: 0,
        };
        Simulation { turns: Turns::default(), vms: loads.iter().map(vm).collect(), now: 0, told: 0 }
    }

    fn view(&self, vm: &Simulated) -> View {
        let has_work = self.now >= vm.rests_until;
        let issuing = has_work && vm.word & 3 != gate::CLOSED;
        View {
            weight: vm.load.weight,
            cap: vm.load.cap,
            wants: has_work && vm.word & 3 == gate::CLOSED,
            calls: !issuing && self.now < vm.drains_until && vm.load.calls,
            drained: !issuing && self.now >= vm.drains_until,
            near: !issuing && self.now.saturating_add(vm.load.near) >= vm.drains_until,
            worked: vm.worked == vm.word,
        }
    }

    fn step(&mut self) {
        for _ in 0..4 {
            let views: Vec<_> = (0..).zip(self.vms.iter().map(|vm| self.view(vm))).collect();
            let step = self.turns.step(self.now, &views);
            self.told += step.had.iter().map(|(_, had)| had).sum::<u64>();
            assert!(step.next.is_none_or(|next| next > self.now), "it would be asked for ever");
            for &(key, word) in &step.gates {
                let now = self.now;
                let vm = &mut self.vms[key as usize];
                if word & 3 == gate::CLOSED && vm.word & 3 != gate::CLOSED && now >= vm.rests_until {
                    vm.drains_until = now + vm.load.drain;
                }
                if word & 3 == gate::TURN {
                    vm.begins = now + vm.load.start;
                }
                vm.word = word;
            }
            if step.gates.is_empty() {
                break;
            }
        }
        // No two VMs have their turn at once.
        assert!(self.vms.iter().filter(|vm| vm.word & 3 != gate::CLOSED).count() <= 1);
        let turn = self.vms.iter().any(|vm| vm.word & 3 != gate::CLOSED);
        for vm in &mut self.vms {
            if self.now < vm.rests_until {
                continue;
            }
            let asked = *vm.asked.get_or_insert(self.now);
            if vm.word & 3 == gate::CLOSED {
                let drains = self.now < vm.drains_until;
                vm.had += if drains { TICK } else { 0 };
                vm.beside += if drains && turn { TICK } else { 0 };
                continue;
            }
            if self.now < vm.begins {
                continue;
            }
            vm.longest = vm.longest.max(self.now - asked);
            vm.worked = vm.word;
            vm.had += TICK;
            vm.left = vm.left.saturating_sub(TICK);
            if vm.left == 0 {
                vm.left = vm.load.work;
                vm.rests_until = self.now + vm.load.rest;
                vm.asked = None;
            }
        }
        self.now += TICK;
    }

    fn run(&mut self, seconds: u64) -> Vec<f64> {
        self.vms.iter_mut().for_each(|vm| vm.had = 0);
        let end = self.now + seconds * 1000 * MILLISECOND;
        while self.now < end {
            self.step();
        }
        self.vms.iter().map(|vm| vm.had as f64 / (seconds * 1000 * MILLISECOND) as f64).collect()
    }
}

#[test]
fn equal_vms_get_equal_shares_and_the_device_is_never_without_work() {
    let shares = Simulation::new(&[BUSY; 4]).run(4);
    let (sum, squares): (f64, f64) = (shares.iter().sum(), shares.iter().map(|s| s * s).sum());
    assert!(sum * sum / (4.0 * squares) > 0.999, "{shares:?}");
    assert!(sum > 0.99, "{shares:?}");
}

#[test]
fn the_next_begins_when_the_end_is_near() {
    let slow = Load { start: 200 * MICROSECOND, ..BUSY };
    let lost: f64 = 1.0 - Simulation::new(&[slow; 4]).run(4).iter().sum::<f64>();
    assert!((0.003..0.008).contains(&lost), "what is to be gained: {lost}");
    let mut simulation = Simulation::new(&[Load { near: 200 * MICROSECOND, ..slow }; 4]);
    let shares = simulation.run(4);
    assert!(shares.iter().sum::<f64>() > 0.998, "{shares:?}");
    assert!(shares.iter().all(|s| (s * 4.0 - 1.0).abs() < 0.03), "{shares:?}");
    let charged = simulation.told as f64 / simulation.now as f64;
    assert!((0.98..1.001).contains(&charged), "nothing is charged twice: {charged}");
}

#[test]
fn an_end_that_is_said_to_be_near_and_is_not_is_soon_not_believed() {
    let liar = Load { near: u64::MAX, drain: 30 * MILLISECOND, ..BUSY };
    let mut simulation = Simulation::new(&[liar, BUSY, BUSY]);
    simulation.run(10);
    simulation.vms[0].beside = 0;
    simulation.run(20);
    let beside = simulation.vms[0].beside as f64 / (20_000 * MILLISECOND) as f64;
    assert!(beside < 0.03, "{beside}");
}

#[test]
fn a_call_that_hangs_keeps_others_waiting_for_a_moment_only() {
    let hangs = Load { drain: 2000 * MILLISECOND, calls: true, ..BUSY };
    let rare = Load { work: MILLISECOND, rest: 10 * MILLISECOND, drain: 0, ..BUSY };
    let mut simulation = Simulation::new(&[hangs, rare]);
    simulation.run(1);
    simulation.vms[1].longest = 0;
    simulation.run(5);
    assert!(simulation.vms[1].longest <= 35 * MILLISECOND, "{}", simulation.vms[1].longest);
}

#[test]
fn turns_are_as_long_as_the_operator_says() {
    let turns_of = |quantum| {
        let mut simulation = Simulation::new(&[BUSY; 2]);
        simulation.turns = Turns::new(quantum);
        simulation.run(2);
        simulation.vms.iter().map(|vm| u64::from(vm.word >> 2)).sum::<u64>()
    };
    let (short, long) = (turns_of(5 * MILLISECOND), turns_of(50 * MILLISECOND));
    // Both use theirs up, so each is twice as long.
    assert!((180..200).contains(&short) && (18..24).contains(&long), "{short} {long}");
}

#[test]
fn turns_are_long_among_vms_that_use_them_up_and_not_for_those_of_less_weight() {
    let turns_of = |loads: &[Load]| {
        let mut simulation = Simulation::new(loads);
        simulation.run(1);
        let before: Vec<u32> = simulation.vms.iter().map(|vm| vm.word >> 2).collect();
        simulation.run(5);
        let length =
            |(vm, before): (&Simulated, u32)| vm.had / u64::from((vm.word >> 2) - before) / MILLISECOND;
        simulation.vms.iter().zip(before).map(length).collect::<Vec<u64>>()
    };
    assert!(turns_of(&[BUSY; 3]).iter().all(|turn| (39..43).contains(turn)));
    // One has less to do than its part.
    let some = Load { work: 3 * MILLISECOND, rest: 20 * MILLISECOND, drain: 0, ..BUSY };
    let turns = turns_of(&[BUSY, BUSY, some]);
    assert!(turns[..2].iter().all(|turn| *turn <= 21), "{turns:?}");
    let turns = turns_of(&[BUSY, Load { weight: 400, ..BUSY }]);
    assert!(turns[0] <= 21 && turns[1] >= 39, "{turns:?}");
}

#[test]
fn shares_are_as_the_weights() {
    let loads = [1, 2, 4].map(|n| Load { weight: 100 * n, drain: 2 * MILLISECOND, ..BUSY });
    let shares = Simulation::new(&loads).run(10);
    for (share, weight) in shares.iter().zip([1.0, 2.0, 4.0]) {
        assert!((share * 7.0 / weight - 1.0).abs() < 0.03, "{shares:?}");
    }
}

#[test]
fn what_a_long_kernel_takes_too_much_is_made_up_for() {
    let loads = [Load { drain: 60 * MILLISECOND, ..BUSY }, BUSY, BUSY];
    let shares = Simulation::new(&loads).run(10);
    assert!(shares.iter().all(|s| (s * 3.0 - 1.0).abs() < 0.05), "{shares:?}");
}

#[test]
fn a_lone_vm_has_the_device_without_turns() {
    let mut simulation = Simulation::new(&[BUSY]);
    assert!(simulation.run(1)[0] > 0.999);
    assert_eq!((simulation.vms[0].word & 3, simulation.told), (gate::OPEN, 0));
}

#[test]
fn a_vm_does_not_get_the_device_for_good_while_work_of_another_goes_on() {
    let view = |wants, drained| View {
        weight: 100,
        cap: 100,
        wants,
        calls: false,
        drained,
        near: drained,
        worked: true,
    };
    let mut turns = Turns::default();
    let mut run = |from: u64, views: [View; 2]| {
        let mut now = from;
        while now < from + 500 * MILLISECOND {
            turns.step(now, &[(0, views[0]), (1, views[1])]);
            now += MILLISECOND;
        }
        turns.word(0) & 3
    };
    // Both want it, then the second waits for what it has under way and has nothing at the gate.
    run(0, [view(true, true), view(true, true)]);
    assert_eq!(run(500 * MILLISECOND, [view(true, false), view(false, false)]), gate::TURN);
    assert_eq!(run(1000 * MILLISECOND, [view(true, false), view(false, true)]), gate::OPEN);
}

#[test]
fn an_idle_vm_costs_nothing_and_its_coming_back_is_noticed() {
    let idle = Load { work: 5 * MILLISECOND, rest: 3000 * MILLISECOND, ..BUSY };
    let mut simulation = Simulation::new(&[BUSY, idle]);
    simulation.run(1);
    let shares = simulation.run(1);
    assert!(shares[0] > 0.999 && simulation.vms[0].word & 3 == gate::OPEN, "{shares:?}");
    let shares = simulation.run(4);
    assert!(shares[1] > 0.001 && shares[0] + shares[1] > 0.99, "{shares:?}");
}

#[test]
fn who_is_bound_by_latency_waits_for_a_short_turn_only() {
    let small = Load { work: 200 * MICROSECOND, rest: 2 * MILLISECOND, drain: 0, ..BUSY };
    let heavy = Load { drain: 2 * MILLISECOND, ..BUSY };
    let mut simulation = Simulation::new(&[heavy, heavy, heavy, small]);
    // All begin at once, and none has had less.
    simulation.run(1);
    simulation.vms[3].longest = 0;
    let shares = simulation.run(5);
    assert!(simulation.vms[3].longest <= 5 * MILLISECOND, "{} ns", simulation.vms[3].longest);
    assert!(shares[3] > 0.02 && shares[..3].iter().all(|s| (s / shares[0] - 1.0).abs() < 0.05), "{shares:?}");
}

#[test]
fn a_cap_holds_alone_and_beside_others() {
    let capped = Load { cap: 30, ..BUSY };
    let shares = Simulation::new(&[capped]).run(5);
    assert!((shares[0] - 0.30).abs() < 0.01, "{shares:?}");
    let shares = Simulation::new(&[capped, BUSY]).run(5);
    assert!((shares[0] - 0.30).abs() < 0.01 && shares[1] > 0.68, "{shares:?}");
}

#[test]
fn an_infinite_kernel_does_not_stop_others_and_gets_its_turns() {
    let stuck = Load { drain: u64::MAX / 4, ..BUSY };
    let mut simulation = Simulation::new(&[stuck, BUSY, BUSY]);
    simulation.run(1);
    let before: Vec<u32> = simulation.vms.iter().map(|vm| vm.word >> 2).collect();
    simulation.run(5);
    let turns: Vec<u32> = simulation.vms.iter().zip(before).map(|(vm, b)| (vm.word >> 2) - b).collect();
    assert!(turns[1] > 40 && turns[2] > 40 && turns[0] > 5, "{turns:?}");
}

#[test]
fn a_vm_that_ends_in_its_turn_leaves_the_device_to_others() {
    let mut simulation = Simulation::new(&[BUSY, BUSY]);
    simulation.run(1);
    let holder = simulation.vms.iter().position(|vm| vm.word & 3 == gate::TURN).unwrap() as Key;
    let other = 1 - holder;
    let view = View { wants: true, ..simulation.view(&simulation.vms[other as usize]) };
    simulation.turns.step(simulation.now, &[(other, view)]);
    assert_ne!(simulation.turns.word(other) & 3, gate::CLOSED);
}

#[test]
fn nonsense_of_one_vm_is_its_own_affair() {
    // It always wants, never works, never is done, and has limits that nobody gives.
    let hostile =
        View { weight: 0, cap: 0, wants: true, calls: true, drained: false, near: true, worked: false };
    let good = |word: u32| View {
        weight: 100,
        cap: 100,
        wants: word & 3 == gate::CLOSED,
        calls: false,
        drained: word & 3 == gate::CLOSED,
        near: word & 3 == gate::CLOSED,
        worked: true,
    };
    let mut turns = Turns::default();
    let (mut now, mut had) = (0, 0);
    while now < 2000 * MILLISECOND {
        let word = turns.word(1);
        let step = turns.step(now, &[(0, hostile), (1, good(word))]);
        had += step.had.iter().filter(|(key, _)| *key == 1).map(|(_, had)| had).sum::<u64>();
        let next = step.next.unwrap_or(now + MILLISECOND).min(now + MILLISECOND);
        assert!(next > now);
        now = next;
    }
    assert!(had > 1000 * MILLISECOND, "{had}");
}
