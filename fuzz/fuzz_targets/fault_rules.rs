#![no_main]

#[path = "../checks/fault_rules.rs"]
mod checked;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checked::check(data));
