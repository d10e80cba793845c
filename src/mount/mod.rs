//! wip
pub mod credentials;
pub mod options;
pub mod source;
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
