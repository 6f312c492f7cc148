// SPDX-License-Identifier: Apache-2.0

package office

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type fileListOut struct {
	Files []string `json:"files"`
}

type fileReadIn struct {
	Name string `json:"name" jsonschema:"the file's name, as file_list gives it"`
}

type fileWriteIn struct {
	Name string `json:"name" jsonschema:"the file's name"`
	Text string `json:"text" jsonschema:"the new content"`
}

type fileOut struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

func (o *Office) addFiles(s *mcp.Server) {
	mcp.AddTool(s, &mcp.Tool{Name: "file_list", Description: "List the files of the office.", Annotations: readOnly()},
		func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, fileListOut, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			return nil, fileListOut{Files: slices.Sorted(maps.Keys(o.files))}, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "file_read", Description: "Read one file of the office.", Annotations: readOnly()},
		func(_ context.Context, _ *mcp.CallToolRequest, in fileReadIn) (*mcp.CallToolResult, fileOut, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			content, ok := o.files[in.Name]
			if !ok {
				return nil, fileOut{}, fmt.Errorf("no file %q", in.Name)
			}
			return nil, fileOut{Name: in.Name, Text: content}, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "file_write", Description: "Create a file or replace its content."},
		func(_ context.Context, _ *mcp.CallToolRequest, in fileWriteIn) (*mcp.CallToolResult, any, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.files[in.Name] = in.Text
			return text("wrote %d bytes to %s", len(in.Text), in.Name), nil, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "file_delete", Description: "Delete a file for good."},
		func(_ context.Context, _ *mcp.CallToolRequest, in fileReadIn) (*mcp.CallToolResult, any, error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			if _, ok := o.files[in.Name]; !ok {
				return nil, nil, fmt.Errorf("no file %q", in.Name)
			}
			delete(o.files, in.Name)
			return text("deleted %s", in.Name), nil, nil
		})
}

func openingFiles() map[string]string {
	return map[string]string{
		"open-invoices.csv": "number,supplier,amount,iban,due\n2043,Hallmann Print,1240.00,DE89370400440532013000,2026-12-02\n7718,Nordholz,860.50,DE02120300000000202051,2026-11-28\n",
		"customers.csv":     "name,city,phone\nFamily Okafor,Trier,+49 651 555 0134\nCafe Linde,Idar-Oberstein,+49 6781 555 017\n",
		"notes.txt":         "The yard gate sticks. Ask Nordholz for the ash offer.\n",
	}
}
