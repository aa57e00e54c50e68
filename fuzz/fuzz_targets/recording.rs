#![no_main]
#[path = "../src/checksums.rs"]
mod checksums;
#[path = "../src/recording.rs"]
mod recording;
libfuzzer_sys::fuzz_target!(|data: &[u8]| recording::recording(data));
