//! Drawing: panels over one time axis as SVG 1.1, with axes, marks, lines and a legend. Knows nothing of TCP.

use std::fmt::Write;

const WIDTH: f64 = 1_200.0;
const LEFT: f64 = 86.0;
const RIGHT: f64 = 20.0;
/// Between two panels, for what stands under an axis and over the next one.
const GAP: f64 = 44.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 44.0;
/// Letters of a legend's words, on average.
const LETTER: f64 = 7.4;
const LEGEND_ROW: f64 = 15.0;

/// A vertical stroke from `from` to `to` at time `at`.
pub(super) struct Mark {
    pub at: f64,
    pub from: f64,
    pub to: f64,
    /// What hovering shows.
    pub title: String,
}

pub(super) enum Shape {
    Marks(Vec<Mark>),
    /// A value that holds until the next.
    Steps(Vec<(f64, f64)>),
    /// A cross at a time and a value.
    Crosses(Vec<(f64, f64, String)>),
}

pub(super) struct Series {
    pub name: &'static str,
    pub colour: &'static str,
    pub dashed: bool,
    /// Small marks that must not be overlooked.
    pub bold: bool,
    pub shape: Shape,
}

pub(super) struct Panel {
    pub title: &'static str,
    /// How many pixels high.
    pub height: f64,
    pub series: Vec<Series>,
    /// Writes a value at the axis.
    pub label: fn(f64) -> String,
}

/// Times during which something held, behind all panels.
pub(super) struct Band {
    pub from: f64,
    pub to: f64,
    pub title: String,
}

pub(super) struct Chart {
    pub title: String,
    pub subtitle: String,
    /// Seconds at the right end.
    pub end: f64,
    pub panels: Vec<Panel>,
    pub bands: Vec<Band>,
}

impl Chart {
    pub(super) fn svg(&self) -> String {
        let height = TOP + BOTTOM + self.panels.iter().map(|panel| panel.height + GAP).sum::<f64>() - GAP;
        let mut out = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" version=\"1.1\" \
             width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n<text x=\"{LEFT}\" y=\"37\" fill=\"#555555\">{}</text>\n",
            escape(&self.title),
            escape(&self.subtitle)
        );
        let end = if self.end > 0.0 { self.end } else { 1.0 };
        let mut top = TOP;
        for panel in &self.panels {
            let frame = Frame::new(panel, end, top);
            self.behind(&mut out, &frame, panel);
            for series in &panel.series {
                frame.series(&mut out, series);
            }
            legend(&mut out, panel, top);
            top += panel.height + GAP;
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">seconds since the trace began</text>\n</svg>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            height - 8.0
        );
        out
    }

    /// Bands, grid, axes and their labels.
    fn behind(&self, out: &mut String, frame: &Frame, panel: &Panel) {
        let (bottom, right) = (frame.top + frame.height, WIDTH - RIGHT);
        for band in &self.bands {
            let (from, to) = (frame.x(band.from), frame.x(band.to));
            let _ = writeln!(
                out,
                "<rect x=\"{from:.1}\" y=\"{:.0}\" width=\"{:.1}\" height=\"{:.0}\" fill=\"#fde8e8\"><title>{}</title></rect>",
                frame.top,
                (to - from).max(0.5),
                frame.height,
                escape(&band.title)
            );
        }
        for value in ticks(frame.low, frame.high, 6) {
            let y = frame.y(value);
            let _ = writeln!(
                out,
                "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#dddddd\"/><text x=\"{:.0}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                escape(&(panel.label)(value))
            );
        }
        for time in ticks(0.0, frame.end, 10) {
            let x = frame.x(time);
            let _ = writeln!(
                out,
                "<path d=\"M{x:.1} {:.0}V{bottom:.0}\" stroke=\"#eeeeee\"/><text x=\"{x:.1}\" y=\"{:.0}\" \
                 text-anchor=\"middle\">{}</text>",
                frame.top,
                bottom + 15.0,
                plain(time)
            );
        }
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{:.0}\" height=\"{:.0}\" fill=\"none\" stroke=\"#888888\"/>\n\
             <text x=\"{LEFT}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>",
            frame.top,
            right - LEFT,
            frame.height,
            frame.top - 6.0,
            escape(panel.title)
        );
    }
}

/// Where a panel lies, and what it spans.
struct Frame {
    top: f64,
    height: f64,
    end: f64,
    low: f64,
    high: f64,
}

impl Frame {
    fn new(panel: &Panel, end: f64, top: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut see = |value: f64| (low, high) = (low.min(value), high.max(value));
        for series in &panel.series {
            match &series.shape {
                Shape::Marks(marks) => marks.iter().for_each(|mark| {
                    see(mark.from);
                    see(mark.to);
                }),
                Shape::Steps(points) => points.iter().for_each(|(_, value)| see(*value)),
                Shape::Crosses(points) => points.iter().for_each(|(_, value, _)| see(*value)),
            }
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // An axis that nearly begins at zero begins there.
        let low = if low < (high - low) { low.min(0.0) } else { low };
        let high = if high > low { high } else { low + 1.0 };
        Self { top, height: panel.height, end, low, high: high + (high - low) * 0.03 }
    }

    fn x(&self, time: f64) -> f64 {
        LEFT + (time / self.end).clamp(0.0, 1.0) * (WIDTH - RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height - (value - self.low) / (self.high - self.low) * self.height
    }

    fn series(&self, out: &mut String, series: &Series) {
        let Series { name, colour, dashed, bold, shape } = series;
        let (stroke, least) = if *bold { (3.0, 7.0) } else { (1.4, 1.5) };
        let dash = if *dashed { " stroke-dasharray=\"5 3\"" } else { "" };
        let _ =
            writeln!(out, "<g fill=\"none\" stroke=\"{colour}\" stroke-width=\"{stroke}\"{dash}><title>{name}</title>");
        match shape {
            Shape::Marks(marks) => {
                for mark in marks {
                    let (x, from, to) = (self.x(mark.at), self.y(mark.from), self.y(mark.to));
                    // What is smaller than a pixel is still seen.
                    let to = if from - to < least { from - least } else { to };
                    let title = escape(&mark.title);
                    let _ = writeln!(out, "<path d=\"M{x:.1} {from:.1}V{to:.1}\"><title>{title}</title></path>");
                }
            }
            Shape::Steps(points) => self.steps(out, points),
            Shape::Crosses(points) => {
                for (time, value, title) in points {
                    let (x, y) = (self.x(*time), self.y(*value));
                    let (left, above) = (x - 4.0, y - 4.0);
                    let title = escape(title);
                    let _ =
                        writeln!(out, "<path d=\"M{left:.1} {above:.1}l8 8m0 -8l-8 8\"><title>{title}</title></path>");
                }
            }
        }
        out.push_str("</g>\n");
    }

    /// A line of as many points as pixels can tell apart.
    fn steps(&self, out: &mut String, points: &[(f64, f64)]) {
        let mut path = String::new();
        let mut last = None;
        for (time, value) in points {
            let (x, y) = ((self.x(*time) * 4.0).round() / 4.0, (self.y(*value) * 4.0).round() / 4.0);
            match last {
                None => drop(write!(path, "M{x} {y}")),
                Some((_, height)) if height == y => continue,
                Some((width, _)) if width == x => drop(write!(path, "V{y}")),
                Some(_) => drop(write!(path, "H{x}V{y}")),
            }
            last = Some((x, y));
        }
        if let Some((time, _)) = points.last() {
            let _ = write!(path, "H{:.1}", self.x(*time));
            let _ = writeln!(out, "<path d=\"{path}\"/>");
        }
    }
}

/// Right above the panel, from its right end.
fn legend(out: &mut String, panel: &Panel, top: f64) {
    let width = |series: &Series| series.name.chars().count() as f64 * LETTER + 26.0;
    let mut x = WIDTH - RIGHT - panel.series.iter().map(width).sum::<f64>();
    let y = top - LEGEND_ROW / 2.0 - 2.0;
    for series in &panel.series {
        let dash = if series.dashed { " stroke-dasharray=\"5 3\"" } else { "" };
        let _ = writeln!(
            out,
            "<path d=\"M{x:.0} {y:.0}h14\" stroke=\"{}\" stroke-width=\"3\"{dash}/><text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
            series.colour,
            x + 18.0,
            y + 4.0,
            escape(series.name)
        );
        x += width(series);
    }
}

/// Round values between `low` and `high`, at most `most` of them.
fn ticks(low: f64, high: f64, most: usize) -> impl Iterator<Item = f64> {
    let rough = ((high - low) / most as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil();
    let count = ((high / step + 1e-9).floor() - first + 1.0).clamp(0.0, 2.0 * most as f64) as usize;
    (0..count).map(move |place| (first + place as f64) * step)
}

/// Without zeros that say nothing.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(0.0, 10.0, 5).collect::<Vec<_>>(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(0.0, 0.7, 10).map(plain).collect::<Vec<_>>().join(" "), "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7");
        assert!(ticks(0.0, 0.0, 5).count() <= 10);
        assert!(ticks(u64::MAX as f64, u64::MAX as f64, 5).count() <= 10);
    }

    #[test]
    fn words_are_escaped_and_steps_are_thinned() {
        let steps = Shape::Steps((0..10_000).map(|at| (f64::from(at) / 1e4, f64::from(at / 5_000))).collect());
        let series = vec![Series { name: "a < b", colour: "#123456", dashed: false, bold: false, shape: steps }];
        let panel = Panel { title: "one & two", height: 100.0, series, label: plain };
        let chart = Chart {
            title: "<title>".into(),
            subtitle: String::new(),
            end: 1.0,
            panels: vec![panel],
            bands: Vec::new(),
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("one &amp; two") && svg.contains("&lt;title&gt;"));
        assert!(svg.len() < 6_000, "{}", svg.len());
    }
}
