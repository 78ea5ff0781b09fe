//! LKL's `sysctl` key: "name=value;name=value". What the names mean is in `crate::sysctl`.

use super::Problem;
use crate::sysctl::{Refused, Tunables};

/// The values, and what the user should know of them; what has no effect is no error, since LKL takes it.
pub(super) fn parse(text: &str) -> Result<(Tunables, Vec<Problem>), Vec<Problem>> {
    let mut tunables = Tunables::default();
    let (mut warnings, mut problems) = (Vec::new(), Vec::new());
    for assignment in text.split(';').map(str::trim).filter(|assignment| !assignment.is_empty()) {
        let Some((name, value)) = assignment.split_once('=') else {
            problems.push(Problem::new("sysctl", format_args!("`{assignment}` is not of the form name=value")));
            continue;
        };
        match tunables.set(name, value.trim()) {
            Ok(None) => {}
            Ok(Some(warning)) | Err(Refused::WithoutEffect(warning)) => warnings.push(Problem::new("sysctl", warning)),
            Err(Refused::Wrong(reason)) => problems.push(Problem::new("sysctl", reason)),
        }
    }
    if problems.is_empty() { Ok((tunables, warnings)) } else { Err(problems) }
}
