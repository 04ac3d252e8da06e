// SPDX-License-Identifier: GPL-2.0

//! Ladder diagrams like the slides', tables, and facts ticked off.

use anstyle::{AnsiColor, Color, Style};

use crate::option::{Field, Host};

/// Columns between the lifelines of the two hosts.
const GAP: usize = 76;

/// Styles; all empty when colours are off.
#[derive(Clone, Copy, Default)]
pub struct Palette {
    pub title: Style,
    pub dim: Style,
    pub good: Style,
    pub bad: Style,
    host: [Style; 2],
}

impl Palette {
    pub fn new(color: bool) -> Self {
        if !color {
            return Self::default();
        }
        let fg = |color: AnsiColor| Style::new().fg_color(Some(Color::Ansi(color)));
        Self {
            title: Style::new().bold(),
            dim: Style::new().dimmed(),
            good: fg(AnsiColor::Green),
            bad: fg(AnsiColor::Red).bold(),
            host: [fg(AnsiColor::Cyan), fg(AnsiColor::Magenta)],
        }
    }

    /// The colour of a host's values.
    pub fn of(&self, host: Host) -> Style {
        match host {
            Host::A => self.host[0],
            Host::B => self.host[1],
        }
    }

    pub fn title(&self, text: &str) {
        let Self { title, .. } = self;
        println!(
            "\n{title}━━ {text} {}{title:#}\n",
            "━".repeat(76_usize.saturating_sub(text.chars().count()))
        );
    }
}

/// A piece of text in one style.
pub struct Span(pub Style, pub String);

/// A ladder diagram: host A's lifeline on the left, B's on the right.
pub struct Ladder {
    palette: Palette,
}

impl Ladder {
    /// Begins a diagram with the names of the hosts.
    pub fn new(palette: Palette, a: &str, b: &str) -> Self {
        let ladder = Self { palette };
        let (style_a, style_b) = (palette.of(Host::A), palette.of(Host::B));
        let gap = (GAP + 4).saturating_sub(a.chars().count() + b.chars().count());
        println!(
            "  {style_a}{a}{style_a:#}{}{style_b}{b}{style_b:#}",
            " ".repeat(gap)
        );
        ladder.row(&[]);
        ladder
    }

    /// A line between the lifelines.
    pub fn row(&self, spans: &[Span]) {
        let width: usize = spans.iter().map(|Span(_, text)| text.chars().count()).sum();
        print!("    │");
        for Span(style, text) in spans {
            print!("{style}{text}{style:#}");
        }
        println!("{}│", " ".repeat(GAP.saturating_sub(width)));
    }

    /// What a host does, at its lifeline.
    pub fn note(&self, host: Host, text: &str) {
        let text = match host {
            Host::A => format!(" {text}"),
            Host::B => format!("{text:>width$} ", width = GAP - 1),
        };
        self.row(&[Span(self.palette.of(host), text)]);
    }

    /// The title of a message.
    pub fn heading(&self, text: &str) {
        self.row(&[Span(self.palette.title, format!("   {text}"))]);
    }

    /// A field of a message: its bytes, its name, its value.
    pub fn field(&self, field: &Field) {
        let style = field.of.map_or(Style::new(), |host| self.palette.of(host));
        let text = format!("     {:<24} ", field.name);
        let left = text.chars().count() + field.value.chars().count();
        let bytes = format!(
            "{:>width$} ",
            field.bytes,
            width = GAP.saturating_sub(left + 1)
        );
        self.row(&[
            Span(Style::new(), text),
            Span(style, field.value.clone()),
            Span(self.palette.dim, bytes),
        ]);
    }

    /// The arrow of a message from `host`.
    pub fn arrow(&self, host: Host) {
        let line = "─".repeat(GAP - 1);
        match host {
            Host::A => println!("    ├{line}▶│"),
            Host::B => println!("    │◀{line}┤"),
        }
        self.row(&[]);
    }
}

/// Facts that the demo checks. It fails if one doesn't hold.
pub struct Facts {
    palette: Palette,
    held: usize,
    failed: Vec<String>,
}

impl Facts {
    pub fn new(palette: Palette) -> Self {
        Self {
            palette,
            held: 0,
            failed: Vec::new(),
        }
    }

    /// Ticks off a fact, or marks it as wrong.
    pub fn check(&mut self, holds: bool, fact: impl Into<String>) {
        let Palette { good, bad, .. } = self.palette;
        let fact = fact.into();
        if holds {
            self.held += 1;
            println!("  {good}✓{good:#} {fact}");
        } else {
            println!("  {bad}✗ {fact}{bad:#}");
            self.failed.push(fact);
        }
    }

    /// Says how it went; whether all facts hold.
    pub fn conclude(self) -> bool {
        let Palette { good, bad, .. } = self.palette;
        if self.failed.is_empty() {
            println!("\n{good}demo: all {} facts hold{good:#}", self.held);
            return true;
        }
        println!(
            "\n{bad}demo: {} of {} facts do not hold:{bad:#}",
            self.failed.len(),
            self.held + self.failed.len()
        );
        for fact in &self.failed {
            println!("  {bad}✗ {fact}{bad:#}");
        }
        false
    }
}
