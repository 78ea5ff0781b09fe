//! docs/rfc-coverage.md names files that show what it says: they are there, and every row has one or says why not.

use std::path::Path;

#[test]
fn every_row_is_shown_by_something_that_exists_or_says_why_nothing_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("docs/rfc-coverage.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| RFC"));
    let mut count = 0;
    for row in rows {
        count += 1;
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, done, missing, shown] = columns[..] else { panic!("four columns: {row}") };
        assert!(!done.is_empty() || !missing.is_empty(), "{name}: neither done nor why not");
        // Between backquotes: a script of the stack's tests, a file, a sysctl or a simulated family.
        let files: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(done.is_empty() || shown.contains("simulation") || !files.is_empty(), "{name}: nothing shows it");
        for file in files {
            let script = root.join(format!("stack/src/stack/tests/{file}.rs"));
            let source = root.join("stack/src").join(file);
            let module = root.join(format!("stack/src/sim/{file}.rs"));
            let wire = root.join(format!("stack/src/{file}"));
            let known = [script, source, module, wire].iter().any(|path| path.exists());
            let family = shown.contains(&format!("simulations `{file}`"));
            assert!(known || family, "{name}: there is no {file}");
        }
    }
    assert!(count > 30, "{count} rows");
}
