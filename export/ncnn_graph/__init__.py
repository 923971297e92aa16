"""What ncnn's exporter does with a network: convert it, know its weights in the files, write them as integers."""
