//! Warps and blocks: divergence, `.sync` instructions, barriers, locks.

#![allow(clippy::unwrap_used)]

mod interp_support;

use interp_support::{Device, kernel, launch, load, params};
use vgpu_softgpu::exec::Fault;

/// Runs a body that stores `%r9` for each thread; `%r1` is `%tid.x`, `%rd1` the buffer of results.
fn run_block(body: &str, threads: u32) -> Result<Vec<u32>, Fault> {
    let source = kernel(
        1,
        &format!(
            "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;
             {body}
             st.global.u32 [%rd2], %r9;"
        ),
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&vec![0; 1024]);
    launch(&device, &program, "k", 1, threads, &params(&[out]))?;
    Ok(device.read_u32(out, threads as usize))
}

#[test]
fn shuffles_move_values_as_each_mode_says() {
    let lanes = || 0..32u32;
    let run = |mode: &str, b: &str, c: &str| {
        let body = format!(
            "mul.lo.u32 %r2, %r1, 10; shfl.sync.{mode}.b32 %r9|%p1, %r2, {b}, {c}, -1; @%p1 add.u32 %r9, %r9, 1;"
        );
        run_block(&body, 32).unwrap()
    };
    let up: Vec<u32> = lanes().map(|l| if l >= 3 { (l - 3) * 10 + 1 } else { l * 10 }).collect();
    assert_eq!(run("up", "3", "0"), up);
    let down: Vec<u32> = lanes().map(|l| if l % 8 + 5 < 8 { (l + 5) * 10 + 1 } else { l * 10 }).collect();
    assert_eq!(run("down", "5", "6175"), down);
    let butterfly: Vec<u32> = lanes().map(|l| (l ^ 7) * 10 + 1).collect();
    assert_eq!(run("bfly", "7", "31"), butterfly);
    let index: Vec<u32> = lanes().map(|l| ((l & 16) + 9) * 10 + 1).collect();
    assert_eq!(run("idx", "9", "0x100f"), index);
}

#[test]
fn shuffle_in_both_sides_of_a_branch_exchanges_within_each_side() {
    let body = "setp.lt.u32 %p1, %r1, 16; @%p1 bra LOW;
        xor.b32 %r2, %r1, 1; shfl.sync.idx.b32 %r9, %r1, %r2, 31, 0xffff0000; bra END;
        LOW: sub.u32 %r2, 15, %r1; shfl.sync.idx.b32 %r9, %r1, %r2, 31, 0xffff;
        END: add.u32 %r9, %r9, 100;";
    let wanted: Vec<u32> = (0..32).map(|l| 100 + if l < 16 { 15 - l } else { l ^ 1 }).collect();
    assert_eq!(run_block(body, 32).unwrap(), wanted);
}

#[test]
fn one_exchange_may_be_reached_from_different_places() {
    // Both sides name all 32 lanes: neither may go on before the other has come.
    let body = "and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; @%p1 bra EVEN;
        shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1; bra END;
        EVEN: shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;
        END: ";
    let wanted: Vec<u32> = (0..32).map(|l| l ^ 1).collect();
    assert_eq!(run_block(body, 32).unwrap(), wanted);
}

#[test]
fn lanes_that_leave_a_loop_early_wait_for_the_others() {
    // Each lane loops as often as its number says; the vote after the loop sees all lanes together.
    let body = "mov.u32 %r3, 0; mov.u32 %r4, 0;
        LOOP: setp.ge.u32 %p1, %r3, %r1; @%p1 bra OUT; add.u32 %r4, %r4, %r3; add.u32 %r3, %r3, 1; bra LOOP;
        OUT: activemask.b32 %r5; popc.b32 %r5, %r5; mad.lo.u32 %r9, %r5, 1000, %r4;";
    let wanted: Vec<u32> = (0..32).map(|l: u32| 32_000 + (0..l).sum::<u32>()).collect();
    assert_eq!(run_block(body, 32).unwrap(), wanted);
}

#[test]
fn shuffle_in_a_divergent_loop_does_not_hang() {
    let body = "mov.u32 %r3, 0; mov.u32 %r9, 0; rem.u32 %r8, %r1, 5;
        LOOP: activemask.b32 %r4; brev.b32 %r5, %r4; clz.b32 %r5, %r5;
        shfl.sync.idx.b32 %r6, %r1, %r5, 31, %r4; add.u32 %r9, %r9, 1;
        add.u32 %r3, %r3, 1; setp.le.u32 %p1, %r3, %r8; @%p1 bra LOOP;";
    let wanted: Vec<u32> = (0..32).map(|l| l % 5 + 1).collect();
    assert_eq!(run_block(body, 32).unwrap(), wanted);
}

#[test]
fn votes_matches_and_reductions_cover_the_lanes_named() {
    let body = "setp.gt.u32 %p1, %r1, 27; vote.sync.ballot.b32 %r2, %p1, -1; vote.sync.any.pred %p2, %p1, -1;
        vote.sync.all.pred %p3, %p1, -1; vote.sync.uni.pred %p4, %p1, -1;
        popc.b32 %r9, %r2; @%p2 add.u32 %r9, %r9, 10; @%p3 add.u32 %r9, %r9, 100; @%p4 add.u32 %r9, %r9, 1000;";
    assert_eq!(run_block(body, 32).unwrap(), vec![14; 32]);
    let body = "shr.u32 %r2, %r1, 3; match.any.sync.b32 %r9, %r2, -1;";
    let wanted: Vec<u32> = (0..32).map(|l| 0xff << (l / 8 * 8)).collect();
    assert_eq!(run_block(body, 32).unwrap(), wanted);
    let body = "mov.u32 %r2, 5; match.all.sync.b32 %r9|%p1, %r2, -1; @!%p1 mov.u32 %r9, 1;
        match.all.sync.b32 %r3|%p2, %r1, -1; @%p2 mov.u32 %r9, 2;";
    assert_eq!(run_block(body, 32).unwrap(), vec![u32::MAX; 32]);
    let body = "sub.s32 %r2, %r1, 20; redux.sync.min.s32 %r3, %r2, -1; redux.sync.add.u32 %r4, %r1, -1;
        redux.sync.xor.b32 %r5, %r1, -1; add.s32 %r9, %r3, %r4; add.s32 %r9, %r9, %r5;";
    assert_eq!(run_block(body, 32).unwrap(), vec![496 - 20; 32]);
    let body = "elect.sync %r2|%p1, -1; selp.u32 %r9, 1, 0, %p1; mad.lo.u32 %r9, %r2, 10, %r9;";
    let wanted: Vec<u32> = (0..32).map(|l| u32::from(l == 0)).collect();
    assert_eq!(run_block(body, 32).unwrap(), wanted);
}

#[test]
fn threads_that_have_exited_do_not_hold_up_a_barrier() {
    let body = "setp.ge.u32 %p1, %r1, 70; @%p1 exit; bar.sync 0; add.u32 %r9, %r1, 1;";
    let wanted: Vec<u32> = (0..96).map(|t| if t < 70 { t + 1 } else { 0 }).collect();
    assert_eq!(run_block(body, 96).unwrap(), wanted);
}

#[test]
fn named_barriers_order_producers_and_consumers() {
    let body = ".shared .b32 box[1];
        mov.u32 %r9, 0; mov.u32 %r3, 0; setp.ge.u32 %p1, %r1, 32; @%p1 bra CONSUME;
        PRODUCE: bar.sync 1, 64; mad.lo.u32 %r4, %r3, 7, 1; st.shared.u32 [box], %r4; bar.arrive 2, 64;
        add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 5; @%p2 bra PRODUCE; bra END;
        CONSUME: bar.arrive 1, 64; bar.sync 2, 64; ld.shared.u32 %r4, [box]; add.u32 %r9, %r9, %r4;
        add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 5; @%p2 bra CONSUME;
        END: ";
    let total = (0..5).map(|r| r * 7 + 1).sum();
    let wanted: Vec<u32> = (0..64).map(|t| if t < 32 { 0 } else { total }).collect();
    assert_eq!(run_block(body, 64).unwrap(), wanted);
}

#[test]
fn barrier_reductions_reach_every_thread() {
    let body = "rem.u32 %r2, %r1, 3; setp.eq.u32 %p1, %r2, 0; bar.red.popc.u32 %r9, 0, %p1;
        setp.lt.u32 %p2, %r1, 1000; bar.red.and.pred %p3, 0, %p2; @%p3 add.u32 %r9, %r9, 1000;
        setp.eq.u32 %p2, %r1, 77; bar.red.or.pred %p3, 0, %p2; @%p3 add.u32 %r9, %r9, 2000;
        bar.red.and.pred %p3, 0, !%p2; @%p3 add.u32 %r9, %r9, 4000;";
    assert_eq!(run_block(body, 100).unwrap(), vec![3034; 100]);
}

#[test]
fn a_lock_within_a_warp_makes_progress() {
    // Each lane spins until it gets the lock; the one that has it must run although it is ahead in the code.
    let body = ".shared .b32 lock[1]; .shared .b32 total[1];
        setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [lock], 0; @%p1 st.shared.u32 [total], 0; bar.sync 0;
        SPIN: atom.shared.cas.b32 %r2, [lock], 0, 1; setp.ne.u32 %p1, %r2, 0; @%p1 bra SPIN;
        ld.volatile.shared.u32 %r3, [total]; add.u32 %r3, %r3, 1; st.volatile.shared.u32 [total], %r3;
        membar.cta; atom.shared.exch.b32 %r2, [lock], 0;
        bar.sync 0; ld.shared.u32 %r9, [total];";
    assert_eq!(run_block(body, 64).unwrap(), vec![64; 64]);
}

#[test]
fn a_block_may_wait_for_a_later_one() {
    let source = kernel(
        1,
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 0; @!%p1 bra OTHER;
         WAIT: ld.acquire.gpu.global.u32 %r2, [%rd1]; setp.ne.u32 %p2, %r2, 3; @%p2 bra WAIT;
         st.global.u32 [%rd1+4], 1; ret;
         OTHER: atom.global.add.u32 %r2, [%rd1], 1;",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&[0, 0]);
    launch(&device, &program, "k", 4, 1, &params(&[out])).unwrap();
    assert_eq!(device.read_u32(out, 2), [3, 1]);
}

#[test]
fn waiting_for_nobody_is_a_deadlock_and_not_a_hang() {
    let body = "setp.eq.u32 %p1, %r1, 0; @%p1 bra ONE; bar.sync 1; bra END; ONE: bar.sync 2; END: ";
    let fault = run_block(body, 64).unwrap_err();
    assert!(matches!(fault, Fault::Deadlock { .. }), "{fault}");
    let body = "setp.eq.u32 %p1, %r1, 0; @%p1 bra ONE; bar.warp.sync -1; bra END; ONE: bar.sync 2; END: ";
    assert!(matches!(run_block(body, 32).unwrap_err(), Fault::Deadlock { .. }));
}

#[test]
fn a_grid_runs_every_block_once_with_its_own_index() {
    let source = kernel(
        1,
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;
         mad.lo.u32 %r4, %r1, %r2, %r3; mul.wide.u32 %rd2, %r4, 4; add.s64 %rd2, %rd1, %rd2;
         mov.u32 %r6, 0;
         L: add.u32 %r6, %r6, 1; setp.lt.u32 %p1, %r6, 300; @%p1 bra L;
         red.global.add.u32 [%rd2], %r4;",
    );
    let mut device = Device::default();
    let program = load(&mut device, &source);
    let out = device.words(&vec![0; 500 * 64]);
    launch(&device, &program, "k", 500, 64, &params(&[out])).unwrap();
    let wanted: Vec<u32> = (0..500 * 64).collect();
    assert_eq!(device.read_u32(out, 500 * 64), wanted);
}
