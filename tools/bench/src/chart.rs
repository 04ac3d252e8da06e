// SPDX-License-Identifier: GPL-2.0

//! Bars and lines, as SVG and PNG.

use std::fs;
use std::path::Path;

use anyhow::{anyhow, Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{register_font, FontStyle};

/// Pixels across.
const WIDTH: u32 = 960;
/// Pixels of a bar with its gap.
const BAR: u32 = 19;
/// Pixels between groups of bars.
const GAP: u32 = 14;
const FONT: &str = "sans-serif";

/// Colours that stay apart for the colour-blind (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0xf0, 0xe4, 0x42),
];

fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}

/// A plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// Part of its file's name.
    pub name: String,
    /// What was measured.
    pub title: String,
    /// Against what, where, and what follows: sentences below the plot.
    pub caption: Vec<String>,
    /// What the values count.
    pub unit: String,
    pub kind: Kind,
}

/// What a plot shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Horizontal bars in groups.
    Bars {
        groups: Vec<String>,
        /// For each group a value, or none.
        series: Vec<(String, Vec<Option<f64>>)>,
        /// The parts of a group lie end to end, and make a whole.
        stacked: bool,
    },
    /// Lines with points.
    Lines {
        x: String,
        /// The axis of x is logarithmic.
        log: bool,
        series: Vec<(String, Vec<(f64, f64)>)>,
    },
}

/// Makes a TrueType font known to all plots.
pub fn use_font(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    // A font lives as long as the program.
    register_font(FONT, FontStyle::Normal, Vec::leak(bytes))
        .map_err(|_| anyhow!("{}: no font", file.display()))
}

/// A number with its thousands apart; decimals only for small ones.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let whole = text.find('.').unwrap_or(text.len());
    let first = usize::from(text.starts_with('-'));
    let mut out = String::with_capacity(text.len() + 4);
    for (at, letter) in text.char_indices() {
        if at > first && at < whole && (whole - at) % 3 == 0 {
            out.push(',');
        }
        out.push(letter);
    }
    out
}

impl Chart {
    /// Writes `DIR/NAME.svg` and `DIR/NAME.png`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let size = (WIDTH, self.height());
        let file = |kind: &str| dir.join(format!("{}.{kind}", self.name));
        let failed = |error: String| anyhow!("plot {}: {error}", self.name);
        let (svg, png) = (file("svg"), file("png"));
        self.draw(&SVGBackend::new(&svg, size).into_drawing_area())
            .map_err(failed)?;
        self.draw(&BitMapBackend::new(&png, size).into_drawing_area())
            .map_err(failed)?;
        Ok(())
    }

    /// It in a document.
    pub fn figure(&self) -> String {
        format!(
            ".. figure:: {}.svg\n   :alt: {}\n\n   {}\n\n",
            self.name,
            self.title,
            self.caption.join(" ")
        )
    }

    fn height(&self) -> u32 {
        let around = 44 + 22 * self.caption.len() as u32 + 70;
        let legend = |series: usize| 22 * (series as u32).div_ceil(4);
        match &self.kind {
            Kind::Bars {
                groups,
                series,
                stacked,
            } => {
                let bars = if *stacked {
                    groups.len()
                } else {
                    let present = |values: &[Option<f64>]| values.iter().flatten().count();
                    series.iter().map(|(_, values)| present(values)).sum()
                };
                around + legend(series.len()) + bars as u32 * BAR + groups.len() as u32 * GAP
            }
            Kind::Lines { series, .. } => around + legend(series.len()) + 360,
        }
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), String> {
        self.try_draw(area).map_err(|error| error.to_string())
    }

    fn try_draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        let text = |size: i32| (FONT, size).into_font().color(&BLACK);
        area.draw(&Text::new(self.title.as_str(), (14, 12), text(20)))?;
        let below = 22 * self.caption.len() as u32 + 12;
        let (_, height) = area.dim_in_pixel();
        for (line, at) in self.caption.iter().zip(0..) {
            let top = (height - below) as i32 + 22 * at;
            area.draw(&Text::new(line.as_str(), (14, top), text(14)))?;
        }
        let names = match &self.kind {
            Kind::Bars { series, .. } => series.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            Kind::Lines { series, .. } => series.iter().map(|(name, _)| name).collect(),
        };
        for (number, name) in names.iter().enumerate() {
            let left = 14 + (number % 4) as i32 * (WIDTH as i32 / 4 - 5);
            let top = 44 + (number / 4) as i32 * 22;
            let square = [(left, top), (left + 12, top + 12)];
            area.draw(&Rectangle::new(square, colour(number).filled()))?;
            area.draw(&Text::new(name.as_str(), (left + 18, top), text(14)))?;
        }
        let legend = 44 + 22 * (names.len() as u32).div_ceil(4);
        let plot = area.margin(legend, below, 10, 30);
        match &self.kind {
            Kind::Bars {
                groups,
                series,
                stacked,
            } => self.draw_bars(&plot, groups, series, *stacked),
            Kind::Lines { x, log, series } => self.draw_lines(&plot, x, *log, series),
        }
    }

    /// Labels at the left, bars from there to the right, values at their ends.
    fn draw_bars<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        groups: &[String],
        series: &[(String, Vec<Option<f64>>)],
        stacked: bool,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        /// Pixels for a label's letter, about, and for the values.
        const LETTER: f64 = 7.3;
        const VALUES: i32 = 80;
        let longest = groups.iter().map(|label| label.chars().count()).max();
        let labels = 30 + (longest.unwrap_or(0) as f64 * LETTER) as i32;
        let (width, height) = area.dim_in_pixel();
        let bottom = height as i32 - 36;
        let bars = |group: usize| {
            let values = series.iter().enumerate();
            values.filter_map(move |(at, (_, values))| Some((at, (*values.get(group)?)?)))
        };
        let all = 0..groups.len();
        let most = if stacked {
            all.map(|group| bars(group).map(|(_, value)| value).sum())
                .fold(0.0, f64::max)
        } else {
            all.flat_map(bars)
                .map(|(_, value)| value)
                .fold(0.0, f64::max)
        };
        let room = f64::from(width as i32 - labels - VALUES);
        let place = |value: f64| labels + (value.max(0.0) / most.max(1e-9) * room) as i32;

        let text = |size: i32| (FONT, size).into_font().color(&BLACK);
        let step = step(most);
        let mut tick = 0.0;
        while tick <= most {
            let x = place(tick);
            let line = vec![(x, 0), (x, bottom)];
            area.draw(&PathElement::new(line, BLACK.mix(0.15)))?;
            area.draw(&Text::new(number(tick), (x, bottom + 2), text(12)))?;
            tick += step;
        }
        let unit = Text::new(self.unit.as_str(), (labels, bottom + 17), text(13));
        area.draw(&unit)?;

        let mut top = GAP as i32 / 2;
        for (group, label) in groups.iter().enumerate() {
            let rows = if stacked { 1 } else { bars(group).count() } as i32;
            let middle = top + (rows * BAR as i32) / 2 - 9;
            area.draw(&Text::new(label.as_str(), (14, middle), text(14)))?;
            let mut start = 0.0;
            for (at, value) in bars(group) {
                let end = start + value;
                let shape = [(place(start), top), (place(end), top + BAR as i32 - 4)];
                area.draw(&Rectangle::new(shape, colour(at).filled()))?;
                if stacked {
                    start = end;
                } else {
                    let at = (place(end) + 4, top);
                    area.draw(&Text::new(number(value), at, text(13)))?;
                    top += BAR as i32;
                }
            }
            if stacked {
                let at = (place(start) + 4, top);
                area.draw(&Text::new(number(start), at, text(13)))?;
                top += BAR as i32;
            }
            top += GAP as i32;
        }
        Ok(())
    }

    fn draw_lines<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        x: &str,
        log: bool,
        series: &[(String, Vec<(f64, f64)>)],
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let points = || series.iter().flat_map(|(_, points)| points.iter());
        let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let most = points().map(|point| point.0).fold(least, f64::max);
        let top = points().map(|point| point.1).fold(0.0, f64::max) * 1.08;
        // Even distances for powers.
        let scale = |x: f64| if log { x.log2() } else { x };
        let back = |at: &f64| number(if log { at.exp2().round() } else { *at });
        let mut builder = ChartBuilder::on(area);
        builder
            .margin_right(20)
            .margin_bottom(10)
            .x_label_area_size(44)
            .y_label_area_size(90);
        let from = scale(least) - if log { 0.15 } else { 0.0 };
        let mut context =
            builder.build_cartesian_2d(from..scale(most) + 0.15, 0.0..top.max(1e-9))?;
        context
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(BLACK.mix(0.15))
            .x_desc(x)
            .y_desc(self.unit.as_str())
            .x_label_formatter(&back)
            .y_label_formatter(&|value| number(*value))
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 13))
            .draw()?;
        for (at, (_, points)) in series.iter().enumerate() {
            let points: Vec<_> = points.iter().map(|&(x, y)| (scale(x), y)).collect();
            let style = colour(at).stroke_width(2);
            context.draw_series(LineSeries::new(points.clone(), style))?;
            let dots = points
                .iter()
                .map(|&point| Circle::new(point, 4, colour(at).filled()));
            context.draw_series(dots)?;
        }
        Ok(())
    }
}

/// The distance of the lines of a grid up to `most`: 1, 2 or 5 times a power of ten, four to nine of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most.max(1e-9) / 4.0).log10().floor());
    let times = [5.0, 2.0, 1.0]
        .into_iter()
        .find(|times| most / (power * times) >= 4.0);
    power * times.unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let pairs = [
            (0.0, "0"),
            (1234567.4, "1,234,567"),
            (-1234.0, "-1,234"),
            (0.126, "0.13"),
            (99.95, "100.0"),
            (12.0, "12"),
            (-123456.0, "-123,456"),
        ];
        for (value, text) in pairs {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn grids_have_four_to_nine_lines() {
        for most in [0.3, 1.0, 7.0, 4_000.0, 26_000.0, 99_999.0] {
            let lines = most / step(most);
            assert!((4.0..10.0).contains(&lines), "{most}: {lines}");
        }
    }
}
