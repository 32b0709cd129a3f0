//! Self-test: the runtime's proof that it talks to a driver that it accepts. It asks with version, version + 1 and
//! version + 2. The first two answers are constants. The third is a keyed hash over where and in what process the
//! driver runs; the runtime computes it too, from what the public API tells it, and makes every call return
//! cudaErrorSoftwareValidityNotEstablished (103) unless both agree.
//!
//! The hash is HMAC-MD2 over little-endian fields without padding, in this order:
//!
//! | field | bytes |
//! |---|---|
//! | driver version (cuDriverGetVersion) | 4 |
//! | version argument | 4 |
//! | process id | 4 |
//! | pthread_self, low half | 4 |
//! | address of the CUDART table | 8 |
//! | address of this table | 8 |
//! | address of the slot's function | 8 |
//! | time argument, Unix seconds | 8 |
//! | for each device: UUID 16, PCI domain 4, bus 4, device 4 | 28 |

use super::md2::Hmac;
use super::slot::{Slot, Start, Table, Uuid};
use super::{Host, answer, cudart, host};

pub const ID: Uuid = Uuid::new("d4082055-bde6-704b-8d34-ba123c66e1f2");

pub static TABLE: Table<3> = Table::sized::<{ ID.prefix() }>(&[(1, prove as Slot)]);

const SLOT: usize = 1;

const KEY: [u8; 16] = *b"\x14\x6a\xdd\xae\x53\xa9\xa7\x52\xaa\x08\x41\x36\x0b\xf5\x5a\x9f";

/// Answers to the first and the second question.
const GREETING: [u64; 2] = [0x3341_181C_03CB_675C, 0x8ED3_83AA_1F4C_D1E8];
const SECOND_GREETING: [u64; 2] = [0x1841_181C_03CB_675C, 0x8ED3_83AA_1F4C_D1E8];

/// What the third answer is made from, besides the devices.
struct Circumstances {
    driver_version: u32,
    version: u32,
    process: u32,
    thread: u32,
    cudart_table: u64,
    own_table: u64,
    function: u64,
    seconds: u64,
}

/// A device as the runtime sees it through cuDeviceGetUuid and cuDeviceGetAttribute.
struct Device {
    uuid: [u8; 16],
    /// Domain, bus, device.
    pci: (i32, i32, i32),
}

/// # Safety
/// `result` must be null or valid for a write.
unsafe extern "C" fn prove(version: u32, seconds: u64, result: *mut [u64; 2]) -> u32 {
    let value = || match version % 10 {
        0 => Ok(GREETING),
        1 => Ok(SECOND_GREETING),
        _ => {
            let host = host()?;
            let devices = (0..host.device_count()).map(|ordinal| device(host, ordinal));
            Ok(hash(&circumstances(host.driver_version(), version, seconds), devices))
        }
    };
    // SAFETY: as the caller promises.
    unsafe { answer(result, value) }
}

fn circumstances(driver_version: u32, version: u32, seconds: u64) -> Circumstances {
    // SAFETY: pthread_self has no preconditions.
    let thread = unsafe { libc::pthread_self() };
    let address = |pointer: Slot| pointer.addr() as u64;
    Circumstances {
        driver_version,
        version,
        process: std::process::id(),
        thread: (thread & 0xFFFF_FFFF) as u32,
        cudart_table: address(cudart::TABLE.start()),
        own_table: address(TABLE.start()),
        function: TABLE.slot(SLOT).map_or(0, address),
        seconds,
    }
}

fn device(host: &dyn Host, ordinal: u32) -> Device {
    Device { uuid: host.device_uuid(ordinal), pci: host.device_pci(ordinal) }
}

fn hash(circumstances: &Circumstances, devices: impl Iterator<Item = Device>) -> [u64; 2] {
    let mut mac = Hmac::new(&KEY);
    for field in
        [circumstances.driver_version, circumstances.version, circumstances.process, circumstances.thread]
    {
        mac.update(&field.to_le_bytes());
    }
    for field in
        [circumstances.cudart_table, circumstances.own_table, circumstances.function, circumstances.seconds]
    {
        mac.update(&field.to_le_bytes());
    }
    for Device { uuid, pci: (domain, bus, device) } in devices {
        mac.update(&uuid);
        for field in [domain, bus, device] {
            mac.update(&field.to_le_bytes());
        }
    }
    let digest = u128::from_le_bytes(mac.finish());
    [(digest & u128::from(u64::MAX)) as u64, (digest >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::super::test_host;
    use super::*;

    /// Expected value from another implementation: Python's `struct` and pycryptodome's HMAC and MD2 over the fields
    /// of the table above. That the runtime expects the same was shown by running it; this guards against drift.
    #[test]
    fn the_third_answer_agrees_with_another_implementation() {
        let circumstances = Circumstances {
            driver_version: 13000,
            version: 13002,
            process: 4242,
            thread: 0xF7D8_E740,
            cudart_table: 0x7FFF_F695_8240,
            own_table: 0x7FFF_F695_8220,
            function: 0x7FFF_F2AA_F4A0,
            seconds: 1_750_000_000,
        };
        let devices = [0u8, 1].into_iter().map(|ordinal| Device {
            uuid: std::array::from_fn(|index| u8::try_from(index).unwrap() + 16 * ordinal),
            pci: (i32::from(ordinal), 0x1B + i32::from(ordinal), 3),
        });
        assert_eq!(hash(&circumstances, devices), [0xC45E_42F7_65A1_3263, 0xDD1B_BACD_FD7E_1621]);
    }

    fn ask(version: u32, seconds: u64) -> [u64; 2] {
        test_host::install();
        let mut answer = [0; 2];
        // SAFETY: valid.
        assert_eq!(unsafe { prove(version, seconds, &mut answer) }, 0);
        answer
    }

    #[test]
    fn the_first_two_answers_are_constant() {
        assert_eq!([ask(12080, 1), ask(13000, 2)], [GREETING; 2]);
        assert_eq!([ask(12081, 1), ask(13001, 2)], [SECOND_GREETING; 2]);
    }

    #[test]
    fn the_third_answer_depends_on_version_time_and_thread() {
        let here = ask(13002, 5);
        assert_eq!(ask(13002, 5), here);
        assert_ne!(ask(12082, 5), here);
        assert_ne!(ask(13002, 6), here);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_ne!(ask(13002, 5), here));
        });
    }
}
