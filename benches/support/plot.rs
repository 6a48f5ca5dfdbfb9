//! A bar chart in SVG: in each group one bar per series, on a logarithmic scale from 1.

use std::fmt::Write;

const BAR: usize = 13;
const LEFT: usize = 130;
const WIDTH: usize = 560;
const COLOURS: [&str; 7] =
    ["#c0392b", "#2c3e50", "#2980b9", "#27ae60", "#8e44ad", "#d68910", "#7f8c8d"];

/// Draws groups of values; `NaN` where there is none. The scale ends at `max`.
pub fn bars(title: &str, series: &[&str], groups: &[(&str, Vec<f64>)], max: f64) -> String {
    let group_height = series.len() * BAR + 16;
    let height = 60 + groups.len() * group_height + 24;
    let width = LEFT + WIDTH + 60;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"8\" y=\"18\" font-size=\"14\">{title}</text>\n"
    );
    let x = |value: f64| LEFT as f64 + WIDTH as f64 * value.max(1.0).ln() / max.ln();
    let mut mark = 1.0;
    while mark <= max {
        let (x, bottom) = (x(mark), height - 20);
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"44\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"40\" text-anchor=\"middle\" fill=\"#666\">{mark}</text>"
        );
        mark *= 2.0;
    }
    for (at, (name, values)) in groups.iter().enumerate() {
        let top = 52 + at * group_height;
        let middle = top + group_height / 2;
        let _ = writeln!(svg, "<text x=\"8\" y=\"{middle}\">{name}</text>");
        for (place, value) in values.iter().enumerate().filter(|(_, value)| value.is_finite()) {
            let (y, end) = (top + place * BAR, x(*value));
            let (fill, wide) = (COLOURS[place % COLOURS.len()], end - LEFT as f64 + 1.5);
            let (text_x, text_y) = (end + 5.0, y + BAR - 3);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{wide:.1}\" height=\"{}\" fill=\"{fill}\"/>\
                 <text x=\"{text_x:.1}\" y=\"{text_y}\" fill=\"#333\">{} {value:.2}</text>",
                BAR - 2,
                series[place]
            );
        }
    }
    svg + "</svg>\n"
}
