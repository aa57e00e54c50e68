#![no_main]
#[path = "../src/checks.rs"]
mod checks;
#[path = "../src/kernel_log.rs"]
mod kernel_log;
libfuzzer_sys::fuzz_target!(|data: &[u8]| kernel_log::kernel_log(data));
