#![no_main]
#[path = "../src/checksums.rs"]
mod checksums;
#[path = "../src/joined.rs"]
mod joined;
libfuzzer_sys::fuzz_target!(|data: &[u8]| joined::joined(data));
