fn main() -> std::process::ExitCode {
    ftpsfs::mount::main()
}
