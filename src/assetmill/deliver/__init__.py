"""What leaves the pipeline: masters, contact sheets, exports."""
