// Package openai serves a model by the protocol of OpenAI's API, as llamafactory-cli api does: models, chat completions with tools and streams,
// completions, and scores of reward models.
package openai
