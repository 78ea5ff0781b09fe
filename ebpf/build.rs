//! Compiles the eBPF programs with clang. The object carries BTF, so that verifier logs show source lines and the
//! same file loads in aya, libbpf and bpftool.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const SOURCE: &str = "src/programs/persona.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed=src/programs");
    println!("cargo::rerun-if-env-changed=CLANG");

    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("persona.bpf.o");

    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall", "-Wextra", "-Werror"]);
    command.args(["-c", SOURCE, "-o"]).arg(&object);
    // The kernel's uapi headers include <asm/types.h>, which Debian keeps under the host's triplet.
    for triplet in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        let include = Path::new("/usr/include").join(triplet);
        if include.join("asm/types.h").exists() {
            command.arg("-idirafter").arg(include);
            break;
        }
    }

    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "{clang} could not compile {SOURCE} ({status}): see its messages above; the headers come from the \
             packages libbpf-dev and linux-libc-dev"
        )),
        Err(error) => fail(&format!(
            "cannot run {clang} to compile {SOURCE}: {error}; install it (apt-get install clang) or name another \
             with the environment variable CLANG"
        )),
    }
}

fn fail(sentence: &str) -> ! {
    println!("cargo::error={sentence}");
    exit(1)
}
