use std::sync::Mutex;

use super::*;

fn entry(context: u64, key: usize, value: usize) -> Entry {
    Entry { context, key, value, destructor: None }
}

fn storage() -> Storage {
    Storage { entries: RwLock::new(Vec::new()), generation: AtomicU64::new(1 << 32) }
}

/// Reads in a thread of its own, whose cache knows nothing of other tests' storage.
fn in_fresh_thread(body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(body);
    });
}

#[test]
fn a_replaced_or_deleted_value_is_not_read_from_the_cache() {
    let storage = storage();
    in_fresh_thread(|| {
        storage.put(entry(1, 2, 3));
        assert_eq!(storage.get(1, 2), Some(3));
        storage.put(entry(1, 2, 4));
        assert_eq!(storage.get(1, 2), Some(4));
        storage.delete(1, 2);
        assert_eq!(storage.get(1, 2), None);
    });
}

#[test]
fn a_deletion_by_another_thread_is_seen() {
    let storage = storage();
    in_fresh_thread(|| {
        storage.put(entry(1, 2, 3));
        assert_eq!(storage.get(1, 2), Some(3));
        in_fresh_thread(|| assert!(storage.delete_context(1).len() == 1));
        assert_eq!(storage.get(1, 2), None);
    });
}

#[test]
fn values_that_share_a_cache_line_are_told_apart() {
    let storage = storage();
    in_fresh_thread(|| {
        for key in 0..10 * LINES {
            storage.put(entry(7, key, key + 1000));
        }
        for _ in 0..2 {
            for key in 0..10 * LINES {
                assert_eq!(storage.get(7, key), Some(key + 1000));
            }
        }
    });
}

#[test]
fn another_value_does_not_empty_the_cache() {
    let storage = storage();
    in_fresh_thread(|| {
        storage.put(entry(1, 2, 3));
        let before = storage.generation.load(Ordering::Relaxed);
        storage.put(entry(1, 3, 4));
        assert_eq!(storage.generation.load(Ordering::Relaxed), before);
    });
}

#[test]
fn destructors_run_once_in_order_and_may_use_the_storage() {
    static CALLS: Mutex<Vec<(u64, usize, usize)>> = Mutex::new(Vec::new());
    unsafe extern "C" fn destroy(context: u64, key: *mut c_void, value: *mut c_void) {
        // The runtime deletes its own entry in here, which is already gone.
        assert_eq!(delete(context, key), status::INVALID_HANDLE);
        CALLS.lock().unwrap().push((context, key.addr(), value.addr()));
    }
    let context = 0xDE57;
    let address = ptr::without_provenance_mut::<c_void>;
    for (key, value) in [(9, 90), (8, 80)] {
        assert_eq!(put(context, address(key), address(value), Some(destroy)), 0);
    }
    assert_eq!(put(context + 1, address(9), address(1), Some(destroy)), 0);
    context_destroyed(context);
    context_destroyed(context);
    assert_eq!(*CALLS.lock().unwrap(), [(context, 9, 90), (context, 8, 80)]);
    let mut value = ptr::null_mut();
    // SAFETY: valid.
    assert_eq!(unsafe { get(&mut value, context, address(9)) }, status::INVALID_HANDLE);
    // SAFETY: valid.
    assert_eq!(unsafe { get(&mut value, context + 1, address(9)) }, status::SUCCESS);
    assert_eq!(delete(context + 1, address(9)), status::SUCCESS);
}
