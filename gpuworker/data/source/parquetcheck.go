package source

import (
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/parquet/file"
)

// checkParquet refuses an index that does not fit the file, before the library acts on it: it opens the columns of the first row group in
// goroutines of its own, where what a broken file makes it do could not be recovered from.
func checkParquet(f *file.Reader, size int64) error {
	md := f.MetaData()
	for g := range f.NumRowGroups() {
		rg := md.RowGroup(g)
		if rg.NumRows() < 0 {
			return fmt.Errorf("row group %d has %d rows", g, rg.NumRows())
		}
		for c := range md.Schema.NumColumns() {
			col, err := rg.ColumnChunk(c)
			if err != nil {
				return err
			}
			start, length := col.DataPageOffset(), col.TotalCompressedSize()
			if col.HasDictionaryPage() && col.DictionaryPageOffset() > 0 {
				start = min(start, col.DictionaryPageOffset())
			}
			if start < 0 || length < 0 || start > size || length > size-start || col.NumValues() < 0 {
				return fmt.Errorf("column %d of row group %d lies outside of the file", c, g)
			}
		}
	}
	if f.NumRowGroups() == 0 {
		return nil
	}
	// The same calls that follow, where a panic of theirs is caught.
	first := f.RowGroup(0)
	for c := range md.Schema.NumColumns() {
		pages, err := first.GetColumnPageReader(c)
		if err != nil {
			return err
		}
		if err := errors.Join(pages.Err(), pages.Close()); err != nil {
			return err
		}
	}
	return nil
}
