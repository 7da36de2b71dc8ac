"""What a person looks at: heat maps, overlays and the results folder."""
