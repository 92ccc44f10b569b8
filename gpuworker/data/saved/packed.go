package saved

import (
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tunefleet/tunefleet/gpuworker/data"
)

// noMedia is what LLaMA-Factory names as the document of an image where there are none (MAX_SU_SEQ_IDX).
const noMedia = 1 << 32

// filled appends tokens up to a length.
func filled(values []int32, to int, with int32) []int32 {
	return append(slices.Clone(values), slices.Repeat([]int32{with}, max(0, to-len(values)))...)
}

// packed are the columns of packed sequences, filled up to one length. Those of documents that do not see each other are numbered in
// attention_mask and described by packing_params; datasets stores these columns in its widest type.
func packed(of Layout) []column {
	short, mask := arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int8
	long := arrow.PrimitiveTypes.Int64
	if of.Neat {
		short, mask = long, long
	}
	out := []column{
		list("input_ids", short, func(g []data.Sequence) []int32 { return filled(g[0].IDs, of.Packed, of.Pad) }),
		list("attention_mask", mask, func(g []data.Sequence) []int32 { return marks(g[0], of) }),
		list("position_ids", long, func(g []data.Sequence) []int32 { return filled(positions(g[0].Docs), of.Packed, 0) }),
		list("labels", long, func(g []data.Sequence) []int32 { return filled(g[0].Labels, of.Packed, data.IgnoreLabel) }),
	}
	if of.Neat {
		out = slices.Insert(out, 1, packingParams(of.Packed))
	}
	return out
}

// marks is 1 everywhere, padding included; of documents that do not see each other the number of the document from 1 on, and 0 on padding.
func marks(s data.Sequence, of Layout) []int32 {
	if !of.Neat {
		return filled(nil, of.Packed, 1)
	}
	var out []int32
	for d := 1; d < len(s.Docs); d++ {
		out = filled(out, int(s.Docs[d]), int32(d))
	}
	return filled(out, of.Packed, 0)
}

// positions count from 0 in each document.
func positions(docs []int32) (out []int32) {
	for d := 1; d < len(docs); d++ {
		for i := range docs[d] - docs[d-1] {
			out = append(out, i)
		}
	}
	return out
}

// packingParams describes where documents begin, and the padding.
func packingParams(length int) column {
	long := arrow.PrimitiveTypes.Int64
	var fields []arrow.Field
	for _, name := range []string{"sequence_boundaries", "image_subseq_ids", "video_subseq_ids", "audio_subseq_ids"} {
		fields = append(fields, arrow.Field{Name: name, Type: arrow.ListOf(long), Nullable: true})
	}
	fields = append(fields, arrow.Field{Name: "right_padding_length", Type: long, Nullable: true})
	return column{"packing_params", arrow.StructOf(fields...), func(b array.Builder, g []data.Sequence) {
		x, _ := b.(*array.StructBuilder)
		x.Append(true)
		add := func(field int, values ...int64) {
			l, _ := x.FieldBuilder(field).(*array.ListBuilder)
			l.Append(true)
			v, _ := l.ValueBuilder().(*array.Int64Builder)
			v.AppendValues(values, nil)
		}
		bounds := make([]int64, 0, len(g[0].Docs)+1)
		for _, d := range g[0].Docs {
			bounds = append(bounds, int64(d))
		}
		add(0, append(bounds, int64(length))...)
		for field := 1; field < 4; field++ {
			add(field, noMedia)
		}
		pad, _ := x.FieldBuilder(4).(*array.Int64Builder)
		pad.Append(int64(length - len(g[0].IDs)))
	}}
}
