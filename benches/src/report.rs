//! What a run of the end-to-end measurements leaves: a table on standard output, every sample as CSV, and a picture.

use crate::figures::{Better, Figure, Target};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// The table: medians, the median of the ratios with its spread, target beside measured.
pub fn table(figures: &[Figure]) -> String {
    let longest = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    let mut text = format!(
        "{:<longest$} {:>10} {:>10} {:<7} {:>7} {:>15}  {}\n",
        "figure: one / other", "one", "other", "unit", "ratio", "spread", "target"
    );
    for figure in figures {
        let ((ours, theirs), ratios) = (figure.medians(), figure.ratios());
        let spread = match (ratios.first(), ratios.last()) {
            (Some(least), Some(most)) => format!("{least:.2} .. {most:.2}"),
            _ => "not measured".into(),
        };
        let _ = writeln!(
            text,
            "{:<longest$} {:>10} {:>10} {:<7} {:>7} {:>15}  {}",
            figure.name,
            number(ours),
            number(theirs),
            figure.unit,
            number(figure.median_ratio()),
            spread,
            verdict(figure),
        );
    }
    text
}

fn verdict(figure: &Figure) -> String {
    let Some(target) = figure.target else {
        return match figure.better {
            Better::Higher => "(more is better)".into(),
            Better::Lower => "(less is better)".into(),
        };
    };
    let met = if target.met(figure.median_ratio()) { "met" } else { "missed" };
    match target {
        Target::AtLeast(bound) => format!(">= {bound:.2} {met}"),
        Target::AtMost(bound) => format!("<= {bound:.2} {met}"),
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// One line per pair.
pub fn csv(figures: &[Figure]) -> String {
    let mut text = String::from("figure,unit,round,one,other,ratio\n");
    for figure in figures {
        for (index, (ours, theirs)) in figure.pairs.iter().enumerate() {
            let _ = writeln!(text, "\"{}\",{},{index},{ours},{theirs},{}", figure.name, figure.unit, ours / theirs);
        }
    }
    text
}

const ROW: usize = 26;
/// Of a letter, at most on average.
const LETTER: usize = 7;
const WIDTH: usize = 420;

/// A bar per figure: the median ratio, its spread as a line, and a mark where both would be equal.
pub fn svg(figures: &[Figure]) -> String {
    let height = ROW * (figures.len() + 2);
    let most = figures.iter().flat_map(|figure| figure.ratios().last().copied()).fold(1.5, f64::max);
    let left = 16 + LETTER * figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    let at = |ratio: f64| left as f64 + ratio / most * WIDTH as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"8\" y=\"17\">one / \
         other, median and spread of the rounds</text>\n",
        left + WIDTH + 70
    );
    for (index, figure) in figures.iter().enumerate() {
        let (ratio, ratios, top) = (figure.median_ratio(), figure.ratios(), ROW * (index + 1));
        let (Some(&least), Some(&greatest)) = (ratios.first(), ratios.last()) else { continue };
        let good = match figure.better {
            Better::Higher => ratio >= 1.0,
            Better::Lower => ratio <= 1.0,
        };
        let colour = if good { "#3a7d44" } else { "#c77d2e" };
        let middle = top + ROW / 2;
        let _ = writeln!(
            text,
            "<text x=\"8\" y=\"{}\">{}</text><rect x=\"{left}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" \
             fill=\"{colour}\"/><line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/><text \
             x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>",
            middle + 4,
            escape(&figure.name),
            top + 5,
            at(ratio) - left as f64,
            ROW - 10,
            at(least),
            at(greatest),
            at(greatest) + 6.0,
            middle + 4,
        );
    }
    let one = at(1.0);
    let _ = writeln!(
        text,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{ROW}\" y2=\"{}\" stroke=\"#555\" stroke-dasharray=\"4 3\"/>\n</svg>",
        height - ROW / 2
    );
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Writes `NAME.csv` and `NAME.svg` into `directory`.
pub fn write(directory: &Path, name: &str, figures: &[Figure]) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (ending, text) in [("csv", csv(figures)), ("svg", svg(figures))] {
        let path = directory.join(format!("{name}.{ending}"));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Vec<Figure> {
        let mut rate = Figure::new("a < b", "Gbit/s", Better::Higher).with_target(Target::AtLeast(1.0));
        rate.pairs = vec![(2.0, 4.0), (6.0, 4.0), (3.0, 4.0)];
        vec![rate, Figure::new("nothing", "s", Better::Lower)]
    }

    #[test]
    fn the_table_has_medians_spread_and_verdict() {
        let table = table(&figures());
        let row = table.lines().nth(1).unwrap();
        for part in ["3.00", "4.00", "0.75", "0.50 .. 1.50", ">= 1.00 missed"] {
            assert!(row.contains(part), "{part} is not in {row}");
        }
        assert!(table.contains("not measured"));
    }

    #[test]
    fn every_sample_is_in_the_csv() {
        let csv = csv(&figures());
        assert_eq!(csv.lines().count(), 4);
        assert!(csv.contains("\"a < b\",Gbit/s,1,6,4,1.5"));
    }

    #[test]
    fn the_picture_escapes_names_and_leaves_out_what_was_not_measured() {
        let svg = svg(&figures());
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("nothing") && !svg.contains("NaN"));
    }
}
