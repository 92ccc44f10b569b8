// Command build makes the CUDA backend for the host and prints the path of the shared object.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

func main() {
	path, err := cudahost.Build(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(path)
}
