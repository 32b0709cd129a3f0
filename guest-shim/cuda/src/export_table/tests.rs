use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

use super::test_host::{MODULE, PRIMARY_CONTEXT};
use super::*;

/// A table as a library sees it: words behind a pointer.
#[derive(Clone, Copy)]
struct Seen(*const *const c_void);

impl Seen {
    fn get(text: &str) -> Result<Self, u32> {
        let mut table = ptr::null();
        // SAFETY: both are valid.
        match unsafe { get_export_table(&mut table, &Uuid::new(text).0) } {
            status::SUCCESS => Ok(Self(table.cast())),
            error => {
                assert!(table.is_null());
                Err(error)
            }
        }
    }

    fn slot<F: Copy>(self, index: usize) -> F {
        // SAFETY: the tests stay inside of the tables and name the slot's type.
        unsafe { std::mem::transmute_copy(&self.0.add(index).read()) }
    }
}

const CUDART: &str = "6bd5fb6c-5bf4-e74a-8987-d93912fd9df9";
const HOOKS: &str = "a094798c-2e74-2e74-93f2-0800200c0a66";
const TLS: &str = "42d85a81-23f6-cb47-8298-f6e78a3aecdc";
const STORAGE: &str = "c693336e-1121-df11-a8c3-68f355d89593";
const CHECKS: &str = "263e8860-7cd2-6143-92f6-bbd5006dfa7e";
const STREAMS: &str = "21318c60-9714-3248-8ca6-41ff7324c8f2";
const MODULES: &str = "6e163fbe-b958-444d-835c-e182aff1991e";
const TOPOLOGY: &str = "1734dc26-800d-4745-8726-c0f1e7dd8bca";

#[test]
fn tables_start_with_their_size_in_bytes() {
    let expected =
        [(CUDART, 13), (HOOKS, 7), (TLS, 3), (CHECKS, 15), (STREAMS, 93), (MODULES, 99), (TOPOLOGY, 17)];
    for (id, slots) in expected {
        assert_eq!(Seen::get(id).unwrap().slot::<usize>(0), slots * 8, "{id}");
    }
}

#[test]
fn no_slot_is_null_and_no_two_are_the_same() {
    for entry in &TABLES {
        let words = entry.table.words();
        let mut sorted = words.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted[0] != 0 && sorted.len() == words.len(), "{:08x}", entry.id.prefix());
    }
}

#[test]
fn a_table_that_is_unknown_or_absent_is_an_invalid_value() {
    for id in [
        "00000000-0000-0000-0000-000000000000",
        "6bd5fb6c-5bf4-e74a-8987-d93912fd9df8",
        "2c8e0ad8-0710-ab4e-90dd-54719fe5f74b",
        "f8cff951-2146-8b4e-b9e4-fb469e7c0dd9",
    ] {
        assert!(Seen::get(id).is_err_and(|error| error == 1), "{id}");
    }
}

#[test]
fn null_arguments_are_an_invalid_value() {
    let mut table = ptr::dangling();
    // SAFETY: null is allowed.
    let results =
        unsafe { (get_export_table(&mut table, ptr::null()), get_export_table(ptr::null_mut(), &[0; 16])) };
    assert_eq!((results, table.is_null()), ((1, 1), true));
}

#[test]
fn an_unknown_slot_refuses_and_is_named_once() {
    static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    set_log(|message| MESSAGES.lock().unwrap().push(message.to_owned()));
    let topology: extern "C" fn(usize, usize) -> u32 = Seen::get(TOPOLOGY).unwrap().slot(4);
    assert_eq!([topology(1, 2), topology(1, 2)], [801, 801]);
    let messages = MESSAGES.lock().unwrap();
    let mine: Vec<_> = messages.iter().filter(|message| message.contains("1734dc26")).collect();
    assert_eq!(mine, ["calling slot 4 of private table 1734dc26: not supported"]);
}

#[test]
fn the_primary_context_is_the_shims() {
    test_host::install();
    let get: unsafe extern "C" fn(*mut u64, i32) -> u32 = Seen::get(CUDART).unwrap().slot(2);
    let mut context = 7;
    // SAFETY: valid or null.
    let results = unsafe { [get(&mut context, 0), get(&mut 0, 9), get(ptr::null_mut(), 0)] };
    assert_eq!((results, context), ([0, 101, 1], PRIMARY_CONTEXT));
}

#[test]
fn a_fatbin_without_wrapper_is_given_one() {
    test_host::install();
    type Load = unsafe extern "C" fn(*const c_void, *mut u64, *const c_void, *const c_void, u32) -> u32;
    let load: Load = Seen::get(CUDART).unwrap().slot(8);
    let fatbin = ptr::from_ref(&0xBA55_ED50u32).cast();
    let (mut module, mut refused) = (0, 0);
    // SAFETY: valid.
    unsafe {
        assert_eq!(load(fatbin, &mut module, ptr::null(), ptr::null(), 0), 0);
        assert_eq!(load(fatbin, &mut refused, ptr::null(), ptr::null(), 1), 801);
    }
    assert_eq!((module, refused), (MODULE, 0));
}

#[test]
fn hooks_are_zero_and_enough_for_runtime_13() {
    let table = Seen::get(HOOKS).unwrap();
    for (slot, at_least) in [(2, 0x20b), (6, 0xe)] {
        let get: unsafe extern "C" fn(*mut *const u32, *mut usize) -> u32 = table.slot(slot);
        let (mut words, mut count) = (ptr::null(), 0);
        // SAFETY: valid.
        assert_eq!(unsafe { get(&mut words, &mut count) }, 0);
        assert!(count >= at_least);
        // SAFETY: the table said so.
        assert!(unsafe { std::slice::from_raw_parts(words, count) }.iter().all(|&word| word == 0));
    }
}

#[test]
fn the_current_context_is_the_threads() {
    test_host::install();
    let get: unsafe extern "C" fn(*mut u64) -> u32 = Seen::get(TLS).unwrap().slot(2);
    let read = || {
        let mut context = 7;
        // SAFETY: valid.
        (unsafe { get(&mut context) }, context)
    };
    test_host::set_current(None);
    assert_eq!(read(), (0, 0));
    test_host::set_current(Some(PRIMARY_CONTEXT));
    assert_eq!(read(), (0, PRIMARY_CONTEXT));
}

#[test]
fn a_context_check_clears_its_result() {
    let check: unsafe extern "C" fn(u64, *mut u32, *mut c_void) -> u32 = Seen::get(CHECKS).unwrap().slot(2);
    let mut result = 7;
    // SAFETY: valid.
    assert_eq!((unsafe { check(0, &mut result, ptr::null_mut()) }, result), (0, 0));
}

#[test]
fn identifiers_go_through_an_opaque_object() {
    test_host::install();
    let table = Seen::get(STREAMS).unwrap();
    let context_id: unsafe extern "C" fn(u64, *mut u64) -> u32 = table.slot(4);
    let object: unsafe extern "C" fn(u64, u64, *mut u64, u32) -> u32 = table.slot(51);
    let stream_id: unsafe extern "C" fn(u64, u64, *mut u64) -> u32 = table.slot(39);
    for (stream, per_thread, expected) in [(0, 0, 0), (5, 0, 5), (5, 1, 105)] {
        let (mut opaque, mut id) = (0, u64::MAX);
        // SAFETY: valid.
        unsafe {
            assert_eq!(object(PRIMARY_CONTEXT, stream, &mut opaque, per_thread), 0);
            assert_ne!(opaque, 0);
            assert_eq!(stream_id(PRIMARY_CONTEXT, opaque, &mut id), 0);
        }
        assert_eq!(id, expected);
    }
    // SAFETY: valid.
    unsafe {
        assert_eq!(stream_id(PRIMARY_CONTEXT, 0, &mut 0), 400);
        assert_eq!(context_id(0x99, &mut 0), 201);
        test_host::set_current(Some(PRIMARY_CONTEXT));
        assert_eq!(context_id(0, &mut 0), 0);
        test_host::set_current(None);
        assert_eq!(context_id(0, &mut 0), 201);
    }
}

#[test]
fn every_function_of_a_module_is_visited_and_counted() {
    test_host::install();
    type Visit = unsafe extern "C" fn(*mut c_void, u64);
    let each: unsafe extern "C" fn(u64, u64, Option<Visit>, *mut c_void) -> u32 =
        Seen::get(MODULES).unwrap().slot(7);
    unsafe extern "C" fn collect(user: *mut c_void, function: u64) {
        // SAFETY: the test passes its vector.
        unsafe { &mut *user.cast::<Vec<u64>>() }.push(function);
    }
    let mut seen: Vec<u64> = Vec::new();
    let user = ptr::from_mut(&mut seen).cast();
    // SAFETY: as `collect` expects.
    let counts = unsafe {
        [
            each(PRIMARY_CONTEXT, MODULE, Some(collect), user),
            each(PRIMARY_CONTEXT, 0x99, Some(collect), user),
            each(PRIMARY_CONTEXT, MODULE, None, user),
        ]
    };
    assert_eq!((counts, seen), ([2, 0, 0], vec![0x31, 0x32]));
}

#[test]
fn storage_is_reached_through_its_table() {
    test_host::install();
    test_host::set_current(Some(0x7700));
    let table = Seen::get(STORAGE).unwrap();
    let put: unsafe extern "C" fn(u64, usize, usize, usize) -> u32 = table.slot(0);
    let delete: unsafe extern "C" fn(u64, usize) -> u32 = table.slot(1);
    let get: unsafe extern "C" fn(*mut usize, u64, usize) -> u32 = table.slot(2);
    let mut value = 0;
    // SAFETY: valid.
    unsafe {
        assert_eq!(get(&mut value, 0x7700, 1), 400);
        assert_eq!(put(0x7700, 1, 42, 0), 0);
        assert_eq!((get(&mut value, 0, 1), value), (0, 42));
        assert_eq!(get(&mut value, 0x7701, 1), 400);
        assert_eq!([delete(0x7700, 1), delete(0x7700, 1)], [0, 400]);
        assert_eq!(get(&mut value, 0x7700, 1), 400);
    }
}
