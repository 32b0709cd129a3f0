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
}

const BUSY: Load = Load { weight: 100, cap: 100, work: u64::MAX, rest: 0, drain: 500 * MICROSECOND };

#[derive(Clone)]
struct Simulated {
    load: Load,
    word: u32,
    worked: u32,
    /// Of its current piece of work.
    left: u64,
    rests_until: u64,
    drains_until: u64,
    had: u64,
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
            had: 0,
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
            drained: !issuing && self.now >= vm.drains_until,
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
                vm.word = word;
            }
            if step.gates.is_empty() {
                break;
            }
        }
        // No two VMs have their turn at once.
        assert!(self.vms.iter().filter(|vm| vm.word & 3 != gate::CLOSED).count() <= 1);
        for vm in &mut self.vms {
            if self.now < vm.rests_until {
                continue;
            }
            let asked = *vm.asked.get_or_insert(self.now);
            if vm.word & 3 == gate::CLOSED {
                vm.had += if self.now < vm.drains_until { TICK } else { 0 };
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
    assert!(turns[1] > 50 && turns[2] > 50 && turns[0] > 5, "{turns:?}");
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
    let hostile = View { weight: 0, cap: 0, wants: true, drained: false, worked: false };
    let good = |word: u32| View {
        weight: 100,
        cap: 100,
        wants: word & 3 == gate::CLOSED,
        drained: word & 3 == gate::CLOSED,
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
