//! Plots as SVG text that takes its colours from the page.
//!
//! `plotters` draws; its colours are markers, which are replaced by CSS variables, so that one drawing serves light
//! and dark pages. A plot is small (420 by 280) and scales with its column: its text stays readable on a phone.

use std::ops::Range;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

const SIZE: (u32, u32) = (420, 280);
const FONT: &str = "sans-serif";
const FONT_SIZE: u32 = 14;

const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(1, 1, 2);

/// What stands at the axes.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
}

/// A sequence of points in a colour of the page: `--c0`, `--c1`, ...
#[derive(Clone, Debug)]
pub struct Series {
    pub colour: u8,
    pub points: Vec<(f64, f64)>,
}

/// A point of a scatter plot, with its radius in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Dot {
    pub colour: u8,
    pub at: (f64, f64),
    pub radius: f64,
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Lines.
pub fn lines(axes: Axes<'_>, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|one| &one.points);
    let (x, y) = (up_to(points().map(|point| point.0)), up_to(points().map(|point| point.1)));
    draw(axes, x, y, true, |chart| {
        for one in series {
            let line =
                LineSeries::new(one.points.iter().copied(), colour(one.colour).stroke_width(2));
            let _ = chart.draw_series(line).expect(CANNOT_FAIL);
        }
    })
}

/// Dots.
pub fn dots(axes: Axes<'_>, dots: &[Dot]) -> String {
    let x = up_to(dots.iter().map(|dot| dot.at.0));
    let y = up_to(dots.iter().map(|dot| dot.at.1));
    draw(axes, x, y, true, |chart| {
        let circles = dots.iter().map(|dot| {
            let style =
                ShapeStyle { color: colour(dot.colour).to_rgba(), filled: true, stroke_width: 1 };
            Circle::new(dot.at, dot.radius, style)
        });
        let _ = chart.draw_series(circles).expect(CANNOT_FAIL);
    })
}

/// A bar for each value, from left to right.
pub fn bars(axes: Axes<'_>, values: &[(u8, f64)]) -> String {
    let y = up_to(values.iter().map(|(_, value)| *value));
    draw(axes, 0.0..values.len() as f64, y, false, |chart| {
        let bars = values.iter().enumerate().map(|(at, &(index, value))| {
            let left = at as f64;
            Rectangle::new([(left + 0.15, 0.0), (left + 0.85, value)], colour(index).filled())
        });
        let _ = chart.draw_series(bars).expect(CANNOT_FAIL);
    })
}

const CANNOT_FAIL: &str = "drawing into a string cannot fail";

/// From zero to a little above the greatest.
fn up_to(values: impl Iterator<Item = f64>) -> Range<f64> {
    let most = values.fold(0.0, f64::max);
    0.0..if most > 0.0 { most * 1.08 } else { 1.0 }
}

/// The marker that becomes `--cN`.
fn colour(index: u8) -> RGBColor {
    RGBColor(1, 2, index)
}

fn draw(
    axes: Axes<'_>,
    x: Range<f64>,
    y: Range<f64>,
    has_x_labels: bool,
    fill: impl FnOnce(&mut Chart<'_, '_>),
) -> String {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .x_label_area_size(if has_x_labels { 40 } else { 24 })
            .y_label_area_size(58)
            .build_cartesian_2d(x, y)
            .expect(CANNOT_FAIL);
        let font = (FONT, FONT_SIZE).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(if has_x_labels { 6 } else { 0 })
            .y_labels(6)
            .x_desc(axes.x)
            .y_desc(axes.y)
            .axis_style(GRID)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()
            .expect(CANNOT_FAIL);
        fill(&mut chart);
        root.present().expect(CANNOT_FAIL);
    }
    themed(&text, axes)
}

/// A number in few characters.
fn short(value: f64) -> String {
    if value.abs() >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if value.abs() >= 1e4 {
        format!("{}k", trimmed(value / 1e3))
    } else {
        trimmed(value)
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Puts CSS variables for the markers, lets the page decide on the size, and says what it shows.
fn themed(svg: &str, axes: Axes<'_>) -> String {
    let mut out =
        svg.replace("\"#010101\"", "\"var(--ink)\"").replace("\"#010102\"", "\"var(--grid)\"");
    for index in 0..=9 {
        out = out.replace(&format!("\"#01020{index}\""), &format!("\"var(--c{index})\""));
    }
    let (width, height) = SIZE;
    let label = format!("role=\"img\" aria-label=\"{} over {}\"", axes.y, axes.x);
    out.replacen(&format!("width=\"{width}\" height=\"{height}\""), &label, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_take_their_colours_and_their_size_from_the_page() {
        let axes = Axes { x: "seconds", y: "runs" };
        let series = Series { colour: 3, points: vec![(0.0, 1.0), (1.0, 5.0)] };
        let plots = [
            lines(axes, &[series]),
            dots(axes, &[Dot { colour: 3, at: (1.0, 2.0), radius: 4.0 }]),
            bars(axes, &[(3, 2.0)]),
        ];
        for plot in plots {
            assert!(plot.contains("var(--c3)") && plot.contains("var(--ink)"), "{plot}");
            assert!(
                plot.contains("viewBox=\"0 0 420 280\"") && !plot.contains("width=\"420\""),
                "{plot}"
            );
            assert!(!plot.contains("#01"), "a marker is left: {plot}");
        }
    }

    #[test]
    fn nothing_to_plot_is_an_empty_plot() {
        let axes = Axes { x: "", y: "" };
        assert!(lines(axes, &[]).contains("<svg") && bars(axes, &[]).contains("<svg"));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 1.5, 250.0, 20_000.0, 3_500_000.0].map(short);
        assert_eq!(shown, ["0", "1.5", "250", "20k", "3.5M"]);
    }
}
