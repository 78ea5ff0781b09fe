//! The `persona` command. What it does is in `command/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    persona_engine::command::main()
}
