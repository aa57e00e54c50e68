#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tracer::fuzzing::kernel_log(data));
