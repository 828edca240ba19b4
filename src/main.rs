//! Parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    codex_bridge::cli::main()
}
