package chaos

import (
	"fmt"
	"image/color"
	"os"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Curve is the loss of a run along its final lineage, by step from 1.
type Curve []float64

// mark is a fault at the step that the run had reached.
type mark struct {
	step int64
	name string
}

// plainTicks are the default ticks with numbers as people write them.
type plainTicks struct{}

// Ticks implements plot.Ticker.
func (plainTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'g', 6, 64)
		}
	}
	return ticks
}

// picture draws the disturbed curve over the undisturbed one, with a mark at each fault, into an SVG file.
func picture(file, title string, calm, disturbed Curve, marks []mark) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "step", "loss"
	p.Legend.Top = true
	p.X.Tick.Marker, p.Y.Tick.Marker = plainTicks{}, plainTicks{}
	line := func(c Curve, name string, width vg.Length, col color.Color) error {
		xy := make(plotter.XYs, len(c))
		for i, y := range c {
			xy[i] = plotter.XY{X: float64(i + 1), Y: y}
		}
		l, err := plotter.NewLine(xy)
		if err != nil {
			return fmt.Errorf("cannot draw %s: %w", name, err)
		}
		l.Width, l.Color = width, col
		p.Add(l)
		p.Legend.Add(name, l)
		return nil
	}
	if err := line(calm, "undisturbed", vg.Points(4), color.RGBA{R: 170, G: 200, B: 240, A: 255}); err != nil {
		return err
	}
	if err := line(disturbed, "under faults", vg.Points(1), color.RGBA{R: 180, G: 30, B: 30, A: 255}); err != nil {
		return err
	}
	var at plotter.XYs
	for _, m := range marks {
		if i := int(m.step) - 1; i >= 0 && i < len(disturbed) {
			at = append(at, plotter.XY{X: float64(m.step), Y: disturbed[i]})
		}
	}
	if len(at) > 0 {
		s, err := plotter.NewScatter(at)
		if err != nil {
			return fmt.Errorf("cannot draw the faults: %w", err)
		}
		s.GlyphStyle = draw.GlyphStyle{Color: color.Black, Radius: vg.Points(4), Shape: draw.CrossGlyph{}}
		p.Add(s)
		p.Legend.Add(fmt.Sprintf("%d faults", len(at)), s)
	}
	canvas := vgsvg.New(9*vg.Inch, 4.5*vg.Inch)
	p.Draw(draw.New(canvas))
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("cannot write the picture: %w", err)
	}
	if _, err = canvas.WriteTo(f); err == nil {
		err = f.Close()
	} else {
		_ = f.Close() // the first error counts
	}
	if err != nil {
		return fmt.Errorf("cannot write the picture: %w", err)
	}
	return nil
}
