//! Plots as SVG: lines over the minutes of a run. No background, and colours that can be read on white and on black.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 220.0;
/// Left, right, top, bottom: room for the labels.
const MARGINS: [f64; 4] = [64.0, 16.0, 34.0, 30.0];
/// More points of a line would not be seen.
const POINTS: usize = 400;
const COLOURS: [&str; 3] = ["#2f7fd1", "#d9730d", "#3f9142"];

#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    /// Name, and points by minute.
    pub(crate) lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

impl Plot {
    pub(crate) fn svg(&self) -> String {
        let all = || self.lines.iter().flat_map(|(_, points)| points);
        let minutes = all().map(|(x, _)| *x).fold(0.0, f64::max).max(1e-3);
        let most = all().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-3);
        let [step_x, step_y] = [step(minutes, 8.0), step(most, 4.0)];
        let top = (most / step_y).ceil() * step_y;
        let [left, right, above, below] = MARGINS;
        let x_of = |x: f64| left + x / minutes * (WIDTH - left - right);
        let y_of = |y: f64| HEIGHT - below - y / top * (HEIGHT - above - below);

        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
             <title>{}</title>\n\
             <style>text{{fill:#6e7681}} .grid{{stroke:#8b949e;stroke-opacity:.35}} polyline{{fill:none;stroke-width:1.5;stroke-linejoin:round}} @media (prefers-color-scheme:dark){{text{{fill:#9aa4ae}}}}</style>\n\
             <text x=\"8\" y=\"18\" font-size=\"13\" font-weight=\"600\">{}</text>\n",
            self.title, self.title
        );
        for n in 0..=whole(top / step_y) {
            let value = f64::from(n) * step_y;
            let y = y_of(value);
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - right,
                left - 6.0,
                y + 4.0,
                label(value)
            );
        }
        for n in 0..=whole(minutes / step_x) {
            let value = f64::from(n) * step_x;
            let unit = if n == 0 { " min" } else { "" };
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}{unit}</text>",
                x_of(value),
                HEIGHT - below + 18.0,
                label(value)
            );
        }
        for (n, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let points: Vec<String> =
                thinned(points).iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
            let _ = writeln!(out, "<polyline stroke=\"{colour}\" points=\"{}\"/>", points.join(" "));
            // From the right, so that the names don't meet the title.
            let place = f64::from(u32::try_from(self.lines.len() - 1 - n).unwrap_or(0));
            let _ = writeln!(
                out,
                "<text x=\"{:.0}\" y=\"18\" text-anchor=\"end\" style=\"fill:{colour}\">{name}</text>",
                WIDTH - right - place * 150.0
            );
        }
        out + "</svg>\n"
    }
}

/// The first of 1, 2, 5, 10, ... times a power of ten that divides `most` into at most `parts`.
fn step(most: f64, parts: f64) -> f64 {
    let power = 10_f64.powf((most / parts).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| most / step <= parts).unwrap_or(10.0 * power)
}

fn whole(n: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the number of a few labels")]
    let whole = (n + 1e-6) as u32;
    whole
}

fn label(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        v if v < 1.0 => format!("{v:.2}"),
        v if v < 10.0 && v.fract() > 1e-6 => format!("{v:.1}"),
        v if v < 10_000.0 => format!("{v:.0}"),
        v => format!("{:.0} k", v / 1000.0),
    }
}

/// The highest point of each of a few hundred parts.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let parts = points.chunks(points.len().div_ceil(POINTS).max(1));
    parts.filter_map(|part| part.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_round_and_few() {
        for (most, parts, expected) in
            [(60.0, 8.0, 10.0), (3.7, 4.0, 1.0), (4.2, 4.0, 2.0), (980.0, 4.0, 500.0), (0.03, 4.0, 0.01)]
        {
            let got = step(most, parts);
            assert!((got - expected).abs() < 1e-9, "{most}: {got}");
        }
    }

    #[test]
    fn a_long_run_is_a_small_picture_with_its_peaks() {
        let line = |at: u32| {
            (0..20_000)
                .map(|n| (f64::from(n) / 333.3, if n == at { 9_000.0 } else { f64::from(n % 700) }))
                .collect::<Vec<_>>()
        };
        assert!(thinned(&line(12_345)).iter().any(|(_, y)| (*y - 9_000.0).abs() < 1e-9));
        let plot =
            Plot { file: "x", title: "requests", lines: vec![("one", line(7)), ("two", line(15_000))] };
        let svg = plot.svg();
        assert!(svg.len() < 40 << 10, "{}", svg.len());
        assert!(svg.contains(">5000<") && svg.contains(">10 k<"), "the labels of the highest point");
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let empty = Plot { file: "x", title: "nothing", lines: vec![("none", Vec::new())] }.svg();
        assert!(!empty.contains("NaN") && !empty.contains("inf"), "{empty}");
    }
}
