#![no_main]
#[path = "../src/kernel_log.rs"]
mod kernel_log;
#[path = "../src/outputs.rs"]
mod outputs;
libfuzzer_sys::fuzz_target!(|data: &[u8]| kernel_log::kernel_log(data));
