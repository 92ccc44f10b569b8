// Package saved writes tokenized data as Hugging Face's datasets saves them (DatasetDict.save_to_disk), with the columns that LLaMA-Factory
// gives them, so that its tokenized_path reads them and datasets.load_from_disk, too.
package saved

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
)

// batchRows is how many rows a record batch has, as datasets writes them.
const batchRows = 1000

// Names of the files of a folder: that of the splits, and those of each split beside its data.
const (
	DictName  = "dataset_dict.json"
	StateName = "state.json"
	InfoName  = "dataset_info.json"
)

// FileName is the name of a split's data file, one of several.
func FileName(i, of int) string { return fmt.Sprintf("data-%05d-of-%05d.arrow", i, of) }

// Dict is the content of DictName.
func Dict(splits []string) ([]byte, error) { return encode(map[string]any{"splits": splits}) }

// State is the content of a split's StateName, over so many files; the fingerprint, at least 16 characters, names the content.
func State(split string, files int, fingerprint string) ([]byte, error) {
	list := make([]map[string]string, files)
	for i := range list {
		list[i] = map[string]string{"filename": FileName(i, files)}
	}
	return encode(map[string]any{"_data_files": list, "_fingerprint": fingerprint[:16], "_format_columns": nil, "_format_kwargs": map[string]any{}, "_format_type": nil,
		"_output_all_columns": false, "_split": split})
}

// Info is the content of a split's InfoName; datasets takes the columns' types from the data.
func Info() ([]byte, error) {
	return encode(map[string]any{"citation": "", "description": "", "homepage": "", "license": ""})
}

func encode(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode the description of saved data: %w", err)
	}
	return b, nil
}

// column is a column of lists, or of truth values, filled from the sequences of a sample.
type column struct {
	name string
	kind arrow.DataType
	add  func(b array.Builder, group []data.Sequence)
}

func list(name string, of arrow.DataType, values func(g []data.Sequence) []int32) column {
	return column{name, arrow.ListOf(of), func(b array.Builder, g []data.Sequence) {
		l, _ := b.(*array.ListBuilder)
		l.Append(true)
		for _, v := range values(g) {
			switch x := l.ValueBuilder().(type) {
			case *array.Int32Builder:
				x.Append(v)
			case *array.Int8Builder:
				x.Append(int8(v))
			case *array.Int64Builder:
				x.Append(int64(v))
			}
		}
	}}
}

func ids(i int) func([]data.Sequence) []int32 {
	return func(g []data.Sequence) []int32 { return g[i].IDs }
}

func labels(i int) func([]data.Sequence) []int32 {
	return func(g []data.Sequence) []int32 { return g[i].Labels }
}

func ones(of func([]data.Sequence) []int32) func([]data.Sequence) []int32 {
	return func(g []data.Sequence) []int32 {
		out := make([]int32, len(of(g)))
		for i := range out {
			out[i] = 1
		}
		return out
	}
}

// prompt and answer cut a sequence whose labels begin with its answer.
func prompt(g []data.Sequence) []int32 { return g[0].IDs[:len(g[0].IDs)-g[0].Trained()] }
func answer(g []data.Sequence) []int32 { return g[0].IDs[len(g[0].IDs)-g[0].Trained():] }

// Layout says what samples a split has, so what columns.
type Layout struct {
	// Form is pt, sft, predict, pairwise or kto.
	Form string
	// Packed is the length of packed sft sequences, which are saved filled up to it with the token Pad; 0: they are not packed. Neat says that
	// their documents do not see each other.
	Packed int
	Neat   bool
	Pad    int32
}

// columns are those that LLaMA-Factory's processors give a form. datasets stores columns of these names in small types.
func columns(of Layout) (out []column, err error) {
	if of.Form == "sft" && of.Packed > 0 {
		out = packed(of)
	} else if out, err = plain(of.Form); err != nil || of.Form == "pt" {
		return out, err // texts have no media
	}
	for _, name := range []string{"images", "videos", "audios"} {
		out = append(out, column{name, arrow.Null, func(b array.Builder, _ []data.Sequence) { b.AppendNull() }})
	}
	return out, nil
}

// plain are the columns of tokens that are not packed.
func plain(form string) ([]column, error) {
	small, byte8, long := arrow.PrimitiveTypes.Int32, arrow.PrimitiveTypes.Int8, arrow.PrimitiveTypes.Int64
	one := func(in func([]data.Sequence) []int32) []column {
		return []column{list("input_ids", small, in), list("attention_mask", byte8, ones(in))}
	}
	side := func(prefix string, i int) []column {
		return []column{list(prefix+"input_ids", long, ids(i)), list(prefix+"attention_mask", long, ones(ids(i))), list(prefix+"labels", long, labels(i))}
	}
	switch form {
	case "pt":
		return one(ids(0)), nil
	case "sft":
		return append(one(ids(0)), list("labels", long, labels(0))), nil
	case "predict":
		return append(one(prompt), list("labels", long, answer)), nil
	case "pairwise":
		return append(side("chosen_", 0), side("rejected_", 1)...), nil
	case "kto":
		out := append(append(one(ids(0)), list("labels", long, labels(0))), side("kl_", 1)...)
		return append(out, column{"kto_tags", arrow.FixedWidthTypes.Boolean, func(b array.Builder, g []data.Sequence) {
			x, _ := b.(*array.BooleanBuilder)
			x.Append(g[0].Tag == 1)
		}}), nil
	}
	return nil, schemas.Errorf(schemas.CodeUnsupported, "tokenized_path", "data of the form %q are not saved", form)
}

// Write writes the samples of a shard as one data file. Packed samples where the layout has none, and longer ones than it says, are errors.
func Write(w io.Writer, of Layout, s *data.Shard) (err error) {
	cols, err := columns(of)
	if err != nil {
		return err
	}
	fields := make([]arrow.Field, len(cols))
	for i, c := range cols {
		fields[i] = arrow.Field{Name: c.name, Type: c.kind, Nullable: true}
	}
	schema := arrow.NewSchema(fields, nil)
	out := ipc.NewWriter(w, ipc.WithSchema(schema))
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	flush := func() error {
		rec := b.NewRecordBatch()
		defer rec.Release()
		if rec.NumRows() == 0 {
			return nil
		}
		if err := out.Write(rec); err != nil {
			return fmt.Errorf("cannot write saved data: %w", err)
		}
		return nil
	}
	group := s.Group()
	for at := 0; at < s.Len(); at += group {
		var g []data.Sequence
		for i := at; i < at+group; i++ {
			q, err := s.Sequence(i)
			if err != nil {
				return err
			}
			if len(q.Docs) > 0 != (of.Packed > 0) || of.Packed > 0 && len(q.IDs) >= of.Packed {
				return schemas.Errorf(schemas.CodeInternal, "tokenized_path", "sequence %d has %d tokens in %d documents, packed ones have less than %d", i, len(q.IDs), len(q.Docs)-1, of.Packed)
			}
			g = append(g, q)
		}
		for i, c := range cols {
			c.add(b.Field(i), g)
		}
		if (at/group+1)%batchRows == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("cannot write saved data: %w", err)
	}
	return nil
}
