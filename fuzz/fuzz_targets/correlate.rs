#![no_main]
#[path = "../src/checks.rs"]
mod checks;
#[path = "../src/correlate.rs"]
mod correlate;
#[path = "../src/outputs.rs"]
mod outputs;
#[path = "../src/script.rs"]
mod script;
libfuzzer_sys::fuzz_target!(|data: &[u8]| correlate::correlate(data));
